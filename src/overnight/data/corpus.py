"""Reading a corpus folder (docs/corpus-format.md): shards stay on disk and are mapped, never loaded whole."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overnight.errors import UserError

FORMAT = "overnight-corpus/1"
SPLITS = ("train", "valid", "test")

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Shard:
    """One shard file: its place, its size and what it must hash to."""

    path: Path
    offsets_path: Path
    size: int
    sha256: str
    offsets_sha256: str

    @cached_property
    def data(self) -> Bytes:
        """The bytes, memory-mapped."""
        if self.size == 0:
            return np.zeros(0, dtype=np.uint8)
        return np.memmap(self.path, dtype=np.uint8, mode="r")

    @cached_property
    def starts(self) -> Offsets:
        """Where each document starts, and the size of the shard as the last value."""
        return np.fromfile(self.offsets_path, dtype="<u8").astype(np.int64)

    def verify(self) -> None:
        """Raise UserError if a file of this shard is not what the manifest says."""
        for path, expected in ((self.path, self.sha256), (self.offsets_path, self.offsets_sha256)):
            try:
                with path.open("rb") as file:
                    actual = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else _digest(file)
            except OSError as error:
                raise UserError(f"{path} is missing or unreadable ({error.strerror}).", "Prepare it again.") from None
            if actual.hexdigest() != expected:
                raise UserError(f"{path} was altered after the manifest was written.", "Prepare the corpus again.")


class ByteStream:
    """The shards of one split as one long run of bytes.

    Example: ``stream.read(start, 100)`` gives a uint8 array, across shard edges too.
    """

    def __init__(self, shards: list[Shard], limit: int | None = None) -> None:
        self.shards = shards
        self._limit = limit
        self._edges = np.concatenate([[0], np.cumsum([shard.size for shard in shards])]).astype(np.int64)

    def __len__(self) -> int:
        size = int(self._edges[-1])
        return size if self._limit is None else min(size, self._limit)

    def head(self, size: int) -> "ByteStream":
        """The first ``size`` bytes."""
        return ByteStream(self.shards, min(size, len(self)))

    @property
    def shard_starts(self) -> Offsets:
        """Positions at which a shard starts."""
        edges = np.unique(self._edges[:-1])
        return edges[edges < len(self)]

    @cached_property
    def document_starts(self) -> Offsets:
        """Positions at which a document starts, rising. Eight bytes a document; built when first asked for."""
        parts = [shard.starts[:-1] + edge for shard, edge in zip(self.shards, self._edges, strict=False)]
        starts = np.concatenate(parts) if parts else np.zeros(0, dtype=np.int64)
        return starts[starts < len(self)]

    def read(self, start: int, length: int) -> Bytes:
        """Bytes ``start`` to ``start + length``; the end of the stream goes on at its beginning."""
        out = np.empty(length, dtype=np.uint8)
        filled, total = 0, len(self)
        if not total:
            raise ValueError("The stream is empty.")
        while filled < length:
            position = (start + filled) % total
            index = int(np.searchsorted(self._edges, position, side="right")) - 1
            inside = position - int(self._edges[index])
            piece = self.shards[index].data[inside : inside + min(length - filled, total - position)]
            out[filled : filled + len(piece)] = piece
            filled += len(piece)
        return out


class Corpus:
    """A corpus folder made by ``overnight prepare``.

    Args:
        folder: the folder that holds ``manifest.json``.

    Raises:
        UserError: if the folder is no corpus, is of another format, or a shard is missing or of another size.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        try:
            self.manifest: dict[str, Any] = json.loads(path.read_bytes())
            found = self.manifest.get("format")
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{self.folder} is not a prepared corpus (it has no manifest.json).",
                f"Make one with: overnight prepare YOUR_TEXT --out {self.folder}",
            ) from None
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"{path} cannot be read: {error}.", "Prepare the corpus again.") from None
        if found != FORMAT:
            raise UserError(f"{path} has format {found!r}; this version reads {FORMAT!r}.", "Prepare it again.")
        try:
            self._splits = {name: self._shards(name) for name in SPLITS}
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} lacks a field or has one of another kind: {error}.", "Prepare it again.") from None

    def _shards(self, name: str) -> list[Shard]:
        shards = []
        for entry in self.manifest["splits"].get(name, {}).get("shards", []):
            path, offsets = self.folder / entry["path"], self.folder / entry["offsets"]
            _check_size(path, entry["bytes"])
            _check_size(offsets, 8 * (entry["documents"] + 1))
            shards.append(Shard(path, offsets, entry["bytes"], entry["sha256"], entry["offsets_sha256"]))
        return shards

    def split(self, name: str) -> ByteStream:
        """The bytes of ``train``, ``valid`` or ``test``; it may be empty."""
        if name not in SPLITS:
            raise UserError(f"{name!r} is not a split.", f"Choose one of {', '.join(SPLITS)}.")
        return ByteStream(self._splits[name])

    @property
    def digest(self) -> str:
        """sha256 over the shards' sha256: equal for the same bytes in the same order."""
        lines = "\n".join(shard.sha256 for name in SPLITS for shard in self._splits[name])
        return hashlib.sha256(lines.encode()).hexdigest()

    def verify(self) -> None:
        """Read every shard and compare its sha256 with the manifest's."""
        for name in SPLITS:
            for shard in self._splits[name]:
                shard.verify()


def _check_size(path: Path, expected: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} is missing or unreadable ({error.strerror}).", "Prepare it again.") from None
    if size != expected:
        raise UserError(f"{path} has {size:,} bytes; by its manifest it has {expected:,}.", "Prepare the corpus again.")


def _digest(file: Any) -> Any:
    """hashlib.file_digest for Python 3.10."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest
