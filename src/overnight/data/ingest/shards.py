"""The shard files of one split: documents appended, files closed at their bound, a state that survives a stop."""

from __future__ import annotations

import hashlib
import os
import sys
from array import array
from bisect import bisect_right
from collections import deque
from concurrent.futures import Executor, Future
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
        background: a thread that brings closed shards safely to disk while the next one is written.
        state: of ``state()``, to go on from there; what the files hold beyond it is cut off.

    Raises:
        UserError: the files do not hold what the state says.
    """

    def __init__(
        self, folder: Path, split: str, limit: int, background: Executor, state: dict[str, Any] | None = None
    ) -> None:
        self._folder, self._split, self._limit = folder, split, limit
        self._background = background
        self._syncing: deque[Future[None]] = deque()
        self.shards: list[Shard] = list(state["shards"]) if state else []
        self._data: HashedFile | None = None
        self._offsets: HashedFile | None = None
        self._documents = 0
        for shard in self.shards[state["synced"] :] if state else ():
            HashedFile(folder / shard["path"], shard["bytes"], shard["sha256"]).close()
            HashedFile(folder / shard["offsets"], 8 * (shard["documents"] + 1), shard["offsets_sha256"]).close()
        if state and state["open"]:
            data_path, offsets_path = self._paths()
            self._data = HashedFile(data_path, state["open"]["bytes"], state["open"]["sha256"])
            self._documents = state["open"]["documents"]
            self._offsets = HashedFile(offsets_path, 8 * (self._documents + 1), state["open"]["offsets_sha256"])

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
                self._close_shard()
                continue
            last = max(last, first + 1)
            base = self._data.size - ends[first]
            self._data.write(view[ends[first] : ends[last]])
            self._offsets.write(_little_endian([base + end for end in ends[first + 1 : last + 1]]))
            self._documents += last - first
            first = last

    def state(self) -> dict[str, Any]:
        """Where the files stand, once they are flushed: plain values for the record of progress."""
        while self._syncing and self._syncing[0].done():
            self._syncing.popleft().result()
        opened = None
        if self._data is not None and self._offsets is not None:
            opened = {
                "bytes": self._data.flush(),
                "documents": self._documents,
                "sha256": self._data.sha256(),
                "offsets_sha256": (self._offsets.flush(), self._offsets.sha256())[1],
            }
        return {"shards": list(self.shards), "synced": len(self.shards) - len(self._syncing), "open": opened}

    def finish(self) -> None:
        """Close the shard under way and wait until all bytes are safe on disk."""
        self._close_shard()
        for waiting in self._syncing:
            waiting.result()

    def _close_shard(self) -> None:
        if self._data is None or self._offsets is None:
            return
        path, offsets = shard_paths(self._split, len(self.shards))
        self._data.flush()
        self._offsets.flush()
        self._syncing.append(self._background.submit(_sync, self._data, self._offsets))
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
                    file.close()
        self._data = self._offsets = None

    def _paths(self) -> tuple[Path, Path]:
        data, offsets = shard_paths(self._split, len(self.shards))
        return self._folder / data, self._folder / offsets

    def _open(self) -> tuple[HashedFile, HashedFile]:
        data_path, offsets_path = self._paths()
        data_path.parent.mkdir(exist_ok=True)
        offsets = HashedFile(offsets_path)
        offsets.write(_little_endian([0]))
        return HashedFile(data_path), offsets


class HashedFile:
    """A file that grows and whose digest is known all the while.

    Args:
        path: the file.
        size: bytes that it holds already; what follows them is cut off.
        digest: their sha256; empty begins the file anew.

    Raises:
        UserError: the file does not begin with those bytes.
    """

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
        """Append."""
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def flush(self) -> int:
        """Hand everything to the system; returns the size."""
        self._file.flush()
        return self.size

    def sha256(self) -> str:
        """Digest of all bytes so far."""
        return self._hash.hexdigest()

    def sync(self) -> None:
        """Bring all bytes safely to disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def _sync(*files: HashedFile) -> None:
    for file in files:
        try:
            file.sync()
        finally:
            file.close()


def _changed(path: Path) -> UserError:
    return UserError(f"{path} changed since the interrupted run wrote it.", "Add --force to prepare the corpus anew.")


def _little_endian(values: list[int]) -> bytes:
    out = array("Q", values)
    if sys.byteorder == "big":
        out.byteswap()
    return out.tobytes()
