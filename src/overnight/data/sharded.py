"""Corpora of any kind of token (docs/corpus-format.md): shards stay on disk and are mapped, never loaded whole."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

from overnight.errors import UserError

FORMAT = "overnight-corpus/1"
SPLITS = ("train", "valid", "test")

Offsets = npt.NDArray[np.int64]
Stream = TypeVar("Stream", bound="TokenStream")


@dataclass(frozen=True)
class Shard:
    """One shard file: its place, its size in tokens, what it must hash to, and what a token is on disk."""

    path: Path
    offsets_path: Path
    size: int
    sha256: str
    offsets_sha256: str
    dtype: str = "u1"

    @cached_property
    def data(self) -> npt.NDArray[Any]:
        """The tokens, memory-mapped."""
        if self.size == 0:
            return np.zeros(0, dtype=self.dtype)
        return np.memmap(self.path, dtype=self.dtype, mode="r")

    @cached_property
    def starts(self) -> Offsets:
        """Where each document starts, and the size of the shard as the last value."""
        return np.fromfile(self.offsets_path, dtype="<u8").astype(np.int64) // np.dtype(self.dtype).itemsize

    def verify(self) -> None:
        """Raise UserError if a file of this shard is not what the manifest says."""
        for path, expected in ((self.path, self.sha256), (self.offsets_path, self.offsets_sha256)):
            verify_file(path, expected)


class TokenStream:
    """The shards of one split as one long run of tokens.

    Example: ``stream.read(start, 100)`` gives an array of 100 tokens, across shard edges too.

    Attributes:
        unit: what a token is, for messages.
        reset_units: what ``resets`` knows.
        dtype: of ``read``.
    """

    unit: ClassVar[str] = "tokens"
    reset_units: ClassVar[tuple[str, ...]] = ("shard", "document", "never")

    def __init__(self, shards: list[Shard], limit: int | None = None, dtype: str = "u1") -> None:
        self.shards = shards
        self.dtype = np.dtype(dtype)
        self._limit = limit
        self._edges = np.concatenate([[0], np.cumsum([shard.size for shard in shards])]).astype(np.int64)

    def __len__(self) -> int:
        size = int(self._edges[-1])
        return size if self._limit is None else min(size, self._limit)

    def head(self: Stream, size: int) -> Stream:
        """The first ``size`` tokens."""
        return type(self)(self.shards, min(size, len(self)), self.dtype.str)

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

    def resets(self, unit: str) -> Offsets:
        """Positions, rising, at which a model's state is zeroed before the token is read.

        Raises:
            UserError: ``unit`` is none of ``reset_units``.
        """
        if unit not in self.reset_units:
            raise UserError(f"reset={unit!r} is not known.", f"Choose one of {', '.join(self.reset_units)}.")
        if unit == "shard":
            return self.shard_starts
        return np.zeros(0, dtype=np.int64) if unit == "never" else self.document_starts

    def read(self, start: int, length: int) -> npt.NDArray[Any]:
        """Tokens ``start`` to ``start + length``; the end of the stream goes on at its beginning."""
        out = np.empty(length, dtype=self.dtype)
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


class ShardedCorpus:
    """What corpora of all kinds share: the manifest, the shards of each split, the digest.

    Args:
        folder: the folder that holds ``manifest.json``.

    Raises:
        UserError: if the folder is no corpus, is of another format or kind, or a shard is missing or of another size.
    """

    kind: ClassVar[str] = ""
    remedy: ClassVar[str] = ""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        path = self.folder / "manifest.json"
        try:
            self.manifest: dict[str, Any] = json.loads(path.read_bytes())
            found = self.manifest.get("format")
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{self.folder} is not a prepared corpus (it has no manifest.json).",
                f"Make one with: overnight prepare YOUR_TEXT --out {self.folder}{self.remedy}",
            ) from None
        except (OSError, ValueError, AttributeError) as error:
            raise UserError(f"{path} cannot be read: {error}.", "Prepare the corpus again.") from None
        if found != FORMAT:
            raise UserError(f"{path} has format {found!r}; this version reads {FORMAT!r}.", "Prepare it again.")
        kind = self.manifest.get("kind", "bytes")
        if kind != self.kind:
            raise UserError(
                f"{self.folder} is a corpus of {kind}, not of {self.kind}.",
                f"Make one with: overnight prepare YOUR_TEXT --out DIR{self.remedy}",
            )
        try:
            self.dtype = str(self.manifest.get("dtype", "u1"))
            self._splits = {name: self._shards(name) for name in SPLITS}
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} lacks a field or has one of another kind: {error}.", "Prepare it again.") from None

    def _shards(self, name: str) -> list[Shard]:
        shards = []
        width = np.dtype(self.dtype).itemsize
        for entry in self.manifest["splits"].get(name, {}).get("shards", []):
            path, offsets = self.folder / entry["path"], self.folder / entry["offsets"]
            check_size(path, entry["bytes"])
            check_size(offsets, 8 * (entry["documents"] + 1))
            size = entry["bytes"] // width
            shards.append(Shard(path, offsets, size, entry["sha256"], entry["offsets_sha256"], self.dtype))
        return shards

    def shards(self, name: str) -> list[Shard]:
        """The shards of ``train``, ``valid`` or ``test``, in order; there may be none.

        Raises:
            UserError: another name.
        """
        if name not in SPLITS:
            raise UserError(f"{name!r} is not a split.", f"Choose one of {', '.join(SPLITS)}.")
        return self._splits[name]

    @property
    def digest(self) -> str:
        """sha256 over the shards' sha256: equal for the same tokens in the same order."""
        lines = "\n".join(shard.sha256 for name in SPLITS for shard in self._splits[name])
        return hashlib.sha256(lines.encode()).hexdigest()

    def verify(self) -> None:
        """Read every shard and compare its sha256 with the manifest's."""
        for name in SPLITS:
            for shard in self._splits[name]:
                shard.verify()


def verify_file(path: Path, expected: str) -> None:
    """Compare a file's sha256.

    Raises:
        UserError: it is another, or the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else _digest(file)
    except OSError as error:
        raise UserError(f"{path} is missing or unreadable ({error.strerror}).", "Prepare it again.") from None
    if actual.hexdigest() != expected:
        raise UserError(f"{path} was altered after the manifest was written.", "Prepare the corpus again.")


def check_size(path: Path, expected: int) -> None:
    """Compare a file's size in bytes.

    Raises:
        UserError: it is another, or the file is missing.
    """
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
