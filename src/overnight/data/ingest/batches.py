"""Finished documents on their way to the shards: split by hash, a few megabytes at a time, in memory or spooled."""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

from overnight.data.ingest.settings import SPLITS

DIGEST_BYTES = 16
_BATCH_BYTES = 4 << 20
_HEADER = struct.Struct("<BBQQ")


@dataclass(frozen=True)
class Batch:
    """Consecutive documents of one split.

    Args:
        split: train, valid or test.
        data: their bytes, one after another.
        sizes: their lengths in bytes.
        digests: 16 bytes for each, or empty where nobody needs them.
    """

    split: str
    data: bytes
    sizes: Sequence[int]
    digests: bytes = b""


def content_digest(document: bytes) -> bytes:
    """BLAKE2b of 16 bytes: decides the split and tells duplicates."""
    return hashlib.blake2b(document, digest_size=DIGEST_BYTES).digest()


def split_bounds(shares: Sequence[float]) -> list[tuple[bytes, str]]:
    """Upper bounds of digests, ascending, and the split below each: ``shares`` of the space of digests.

    >>> [(bound[:2].hex(), split) for bound, split in split_bounds((3, 1, 0))]
    [('c000', 'train'), ('ffff', 'valid')]
    """
    total = sum(shares)
    bounds = []
    run = 0.0
    for split, share in zip(SPLITS, shares, strict=True):
        if share > 0:
            run += share
            bounds.append((min(2**64 - 1, int(run / total * 2**64)).to_bytes(8, "big"), split))
    bounds[-1] = (b"\xff" * (DIGEST_BYTES + 1), bounds[-1][1])
    return bounds


class BatchBuilder:
    """Sorts documents into splits and hands them on in batches.

    Args:
        bounds: of ``split_bounds``.
        keep_digests: batches carry the digests.
        emit: called with each batch; those of one split come in reading order.
    """

    def __init__(self, bounds: list[tuple[bytes, str]], keep_digests: bool, emit: Callable[[Batch], None]) -> None:
        self._bounds, self._keep, self._emit = bounds, keep_digests, emit
        self._held: dict[str, tuple[list[bytes], list[bytes]]] = {split: ([], []) for split in SPLITS}
        self._size = 0

    def add(self, document: bytes, split: str = "") -> None:
        """Take a document; without a split its digest decides."""
        digest = b""
        if self._keep or not split:
            digest = content_digest(document)
        if not split:
            for bound, name in self._bounds:
                if digest < bound:
                    split = name
                    break
        documents, digests = self._held[split]
        documents.append(document)
        if self._keep:
            digests.append(digest)
        self._size += len(document)
        # Very short documents cost memory by their number, not by their length.
        if self._size >= _BATCH_BYTES or len(documents) >= 1 << 16:
            self.flush()

    def flush(self) -> None:
        """Hand on what is held."""
        for split, (documents, digests) in self._held.items():
            if documents:
                batch = Batch(split, b"".join(documents), array("Q", map(len, documents)), b"".join(digests))
                documents.clear()
                digests.clear()
                self._emit(batch)
        self._size = 0


def write_batch(file: IO[bytes], batch: Batch) -> None:
    """Append a batch to a spool file, which ``read_batches`` of the same machine reads."""
    sizes = array("Q", batch.sizes).tobytes()
    file.write(_HEADER.pack(SPLITS.index(batch.split), bool(batch.digests), len(batch.sizes), len(batch.data)))
    file.write(sizes + batch.digests)
    file.write(batch.data)


def read_batches(file: IO[bytes]) -> Iterator[Batch]:
    """The batches of a spool file."""
    while header := file.read(_HEADER.size):
        split, digested, documents, size = _HEADER.unpack(header)
        sizes = array("Q", file.read(8 * documents))
        digests = file.read(DIGEST_BYTES * documents) if digested else b""
        yield Batch(SPLITS[split], file.read(size), sizes, digests)
