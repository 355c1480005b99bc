"""Exact duplicates: digests of the documents seen so far, in a hash table on disk and never in memory."""

from __future__ import annotations

import os
from array import array
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any

from overnight.data.ingest.batches import DIGEST_BYTES, Batch
from overnight.data.ingest.shards import HashedFile

_EMPTY = bytes(DIGEST_BYTES)
# Read at once from a digest's place on: at a half full table the free slot is nearly always among these.
_PROBE_BYTES = 16 * DIGEST_BYTES
_BLOCK_BYTES = 1 << 20
_FIRST_BITS = 18


class DigestTable:
    """A set of 16-byte digests in a file: open addressing, a digest's place given by its first ``bits`` bits.

    The order of places is the order of digests, so that the table doubles in one pass from front to back. Between two
    and four slots of 16 bytes for each digest; the system's page cache decides how much of it is at hand.

    Args:
        path: the file, written anew.
        bits: the table begins with 2 to the power of it places.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = DigestTable(Path(folder, "table"))
    ...     table.add(b"0123456789abcdef"), table.add(b"0123456789abcdef")
    ...     table.close()
    (True, False)
    """

    def __init__(self, path: Path, bits: int = _FIRST_BITS) -> None:
        self._path = path
        self._bits = bits
        self._shift = 64 - bits
        self._count = 0
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115
        self._file.truncate(DIGEST_BYTES << bits)

    def add(self, digest: bytes) -> bool:
        """Whether a digest is new; it is in the set from now on."""
        if self._count >= 1 << (self._bits - 1):
            self._double()
        return self._insert(digest)

    def _insert(self, digest: bytes) -> bool:
        file = self._file
        offset = (int.from_bytes(digest[:8], "big") >> self._shift) * DIGEST_BYTES
        while True:
            file.seek(offset)
            block = file.read(_PROBE_BYTES)
            for start in range(0, len(block), DIGEST_BYTES):
                entry = block[start : start + DIGEST_BYTES]
                if entry == digest:
                    return False
                if entry == _EMPTY:
                    return self._put(digest, offset + start)
            if not block:
                # Past the last place the file just grows: the end of the table never wraps round.
                return self._put(digest, offset)
            offset += len(block)

    def _put(self, digest: bytes, offset: int) -> bool:
        self._file.seek(offset)
        self._file.write(digest)
        self._count += 1
        return True

    def _double(self) -> None:
        """Move everything into a file with twice the places, a block at a time, in the order of digests."""
        import numpy as np

        larger = DigestTable(self._path.with_suffix(".new"), self._bits + 1)
        self._file.seek(0)
        held = b""
        free = 0
        while True:
            block = self._file.read(_BLOCK_BYTES)
            slots = np.frombuffer(held + block, ">u8").reshape(-1, 2).astype(np.uint64)
            used = (slots[:, 0] | slots[:, 1]) != 0
            # A run of full places is put in order as a whole, so one that the block cuts waits for the next block.
            whole = len(used) if not block else len(used) - int(np.argmin(used[::-1])) if not used.all() else 0
            held = slots[whole:].astype(">u8").tobytes()
            digests = slots[:whole][used[:whole]]
            if len(digests):
                digests = digests[np.lexsort((digests[:, 1], digests[:, 0]))]
                ranks = np.arange(len(digests))
                # Each takes its place or the first free one after it: p_i = max(place_i, p_{i-1} + 1).
                places = (digests[:, 0] >> np.uint64(larger._shift)).astype(np.int64)
                places = np.maximum(np.maximum.accumulate(places - ranks), free) + ranks
                out = np.zeros((places[-1] + 1 - free, 2), ">u8")
                out[places - free] = digests
                larger._file.seek(free * DIGEST_BYTES)
                larger._file.write(out.tobytes())
                free = int(places[-1]) + 1
            if not block:
                break
        self._file.close()
        os.replace(larger._path, self._path)
        self._bits, self._shift, self._file = larger._bits, larger._shift, larger._file

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


class Seen:
    """The digests of the documents that stand in the corpus, with a log from which an interrupted run rebuilds them.

    Args:
        folder: for the table and the log.
        state: of ``state()``, to go on from there.

    Raises:
        UserError: the log does not hold what the state says.
    """

    def __init__(self, folder: Path, state: dict[str, Any] | None = None) -> None:
        self._table = DigestTable(folder / "seen.table")
        log = folder / "seen.log"
        self._log = HashedFile(log, state["bytes"], state["sha256"]) if state else HashedFile(log)
        if state:
            with open(log, "rb") as file:
                while block := file.read(_BLOCK_BYTES):
                    for start in range(0, len(block), DIGEST_BYTES):
                        self._table.add(block[start : start + DIGEST_BYTES])

    def drop_known(self, batch: Batch) -> Batch:
        """The documents of a batch that were not seen before; they are seen from now on."""
        add, digests = self._table.add, batch.digests
        each = [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]
        kept = [index for index, digest in enumerate(each) if add(digest)]
        self._log.write(b"".join(each[i] for i in kept))
        if len(kept) == len(each):
            return batch
        starts = list(accumulate(batch.sizes, initial=0))
        data = b"".join(batch.data[starts[i] : starts[i + 1]] for i in kept)
        return Batch(batch.split, data, array("Q", (batch.sizes[i] for i in kept)))

    def state(self) -> dict[str, Any]:
        """Where the log stands, once it is flushed: plain values for the record of progress."""
        return {"bytes": self._log.flush(), "sha256": self._log.sha256()}

    def close(self) -> None:
        """Give the files back."""
        self._table.close()
        with suppress(OSError):
            self._log.close()
