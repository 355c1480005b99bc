"""The shard files of one split: documents appended, files closed at their bound, a state that survives a stop."""

from __future__ import annotations

import hashlib
import os
import sys
from array import array
from bisect import bisect_right
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import IO, Any, TypedDict

from overnight.data.ingest.batches import Batch
from overnight.errors import UserError


class Shard(TypedDict):
    """Entry of a shard in the manifest (see docs/corpus-format.md)."""

    path: str
    offsets: str
    bytes: int
    documents: int
    sha256: str
    offsets_sha256: str


def shard_paths(split: str, index: int) -> tuple[str, str]:
    """Names of a shard's two files relative to the corpus.

    >>> shard_paths("train", 3)
    ('train/00003.bin', 'train/00003.idx')
    """
    return f"{split}/{index:05d}.bin", f"{split}/{index:05d}.idx"


class ShardWriter:
    """Appends documents to the shards of one split.

    Args:
        folder: the corpus.
        split: train, valid or test.
        limit: bound of a shard in bytes; only a single longer document goes beyond it.
        state: of ``state()``, to go on from there; what the files hold beyond it is cut off.

    Raises:
        UserError: the files do not hold what the state says.
    """

    def __init__(self, folder: Path, split: str, limit: int, state: dict[str, Any] | None = None) -> None:
        self._folder, self._split, self._limit = folder, split, limit
        self.shards: list[Shard] = list(state["shards"]) if state else []
        self._data: _Hashed | None = None
        self._offsets: _Hashed | None = None
        self._documents = 0
        if state and state["open"]:
            data_path, offsets_path = self._paths()
            self._data = _Hashed(data_path, state["open"]["bytes"], state["open"]["sha256"])
            self._documents = state["open"]["documents"]
            self._offsets = _Hashed(offsets_path, 8 * (self._documents + 1), state["open"]["offsets_sha256"])

    @property
    def bytes(self) -> int:
        """Bytes of all documents so far."""
        return sum(s["bytes"] for s in self.shards) + (self._data.size if self._data else 0)

    @property
    def documents(self) -> int:
        """Number of documents so far."""
        return sum(s["documents"] for s in self.shards) + self._documents

    def append(self, batch: Batch) -> None:
        """Write a batch, into as many shards as it takes."""
        ends = list(accumulate(batch.sizes, initial=0))
        view = memoryview(batch.data)
        first = 0
        while first < len(batch.sizes):
            if self._data is None or self._offsets is None:
                self._data, self._offsets = self._open()
            room = self._limit - self._data.size
            last = bisect_right(ends, ends[first] + room) - 1
            if last <= first and self._data.size:
                self.close_shard()
                continue
            last = max(last, first + 1)
            base = self._data.size - ends[first]
            self._data.write(view[ends[first] : ends[last]])
            self._offsets.write(_little_endian([base + end for end in ends[first + 1 : last + 1]]))
            self._documents += last - first
            first = last

    def state(self) -> dict[str, Any]:
        """Where the files stand, once they are flushed: plain values for the journal."""
        opened = None
        if self._data is not None and self._offsets is not None:
            opened = {
                "bytes": self._data.flush(),
                "documents": self._documents,
                "sha256": self._data.sha256(),
                "offsets_sha256": (self._offsets.flush(), self._offsets.sha256())[1],
            }
        return {"shards": list(self.shards), "open": opened}

    def close_shard(self) -> None:
        """Close the shard under way, its bytes safe on disk; nothing happens where there is none."""
        if self._data is None or self._offsets is None:
            return
        path, offsets = shard_paths(self._split, len(self.shards))
        self._data.close(sync=True)
        self._offsets.close(sync=True)
        self.shards.append(
            {
                "path": path,
                "offsets": offsets,
                "bytes": self._data.size,
                "documents": self._documents,
                "sha256": self._data.sha256(),
                "offsets_sha256": self._offsets.sha256(),
            }
        )
        self._data = self._offsets = None
        self._documents = 0

    def abandon(self) -> None:
        """Close the files as they are."""
        for file in (self._data, self._offsets):
            if file is not None:
                with suppress(OSError):
                    file.close(sync=False)
        self._data = self._offsets = None

    def _paths(self) -> tuple[Path, Path]:
        data, offsets = shard_paths(self._split, len(self.shards))
        return self._folder / data, self._folder / offsets

    def _open(self) -> tuple[_Hashed, _Hashed]:
        data_path, offsets_path = self._paths()
        data_path.parent.mkdir(exist_ok=True)
        offsets = _Hashed(offsets_path)
        offsets.write(_little_endian([0]))
        return _Hashed(data_path), offsets


class _Hashed:
    """A file that grows and whose digest is known all the while."""

    def __init__(self, path: Path, size: int = 0, digest: str = "") -> None:
        self.size = 0
        self._hash = hashlib.sha256()
        try:
            self._file: IO[bytes] = open(path, "r+b" if digest else "wb")  # noqa: SIM115
        except FileNotFoundError:
            raise _changed(path) from None
        if digest:
            while self.size < size and (block := self._file.read(min(1 << 20, size - self.size))):
                self._hash.update(block)
                self.size += len(block)
            if self.size != size or self.sha256() != digest:
                self._file.close()
                raise _changed(path)
            self._file.truncate(size)
            self._file.seek(size)

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def flush(self) -> int:
        self._file.flush()
        return self.size

    def sha256(self) -> str:
        return self._hash.hexdigest()

    def close(self, sync: bool) -> None:
        try:
            if sync:
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()


def _changed(path: Path) -> UserError:
    return UserError(f"{path} changed since the interrupted run wrote it.", "Add --force to prepare the corpus anew.")


def _little_endian(values: list[int]) -> bytes:
    out = array("Q", values)
    if sys.byteorder == "big":
        out.byteswap()
    return out.tobytes()
