"""Exact duplicates: digests of the documents seen so far, in a database on disk with a small cache."""

from __future__ import annotations

import sqlite3
from array import array
from itertools import accumulate
from pathlib import Path

from overnight.data.ingest.batches import DIGEST_BYTES, Batch

_CACHE_KIB = 64 * 1024


class Seen:
    """The digests of the documents that stand in the corpus.

    Args:
        path: the database; made where it is missing.
        next_piece: first piece still to do: what later pieces left behind in an interrupted run is forgotten.
    """

    def __init__(self, path: Path, next_piece: int) -> None:
        # Without implicit transactions: commit() decides what an interrupted run leaves.
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        self._db.execute("CREATE TABLE IF NOT EXISTS seen (digest BLOB PRIMARY KEY, piece INTEGER) WITHOUT ROWID")
        if next_piece:
            self._db.execute("DELETE FROM seen WHERE piece >= ?", (next_piece,))
        else:
            self._db.execute("DELETE FROM seen")
        self._cursor = self._db.cursor()
        self._cursor.execute("BEGIN")

    def drop_known(self, batch: Batch, piece: int) -> Batch:
        """The documents of a batch that were not seen before; they are seen from now on."""
        insert = "INSERT OR IGNORE INTO seen VALUES (?, ?)"
        cursor, digests = self._cursor, batch.digests
        kept = []
        for index in range(len(batch.sizes)):
            digest = digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
            if cursor.execute(insert, (digest, piece)).rowcount:
                kept.append(index)
        if len(kept) == len(batch.sizes):
            return batch
        starts = list(accumulate(batch.sizes, initial=0))
        data = b"".join(batch.data[starts[i] : starts[i + 1]] for i in kept)
        return Batch(batch.split, data, array("Q", (batch.sizes[i] for i in kept)))

    def commit(self) -> None:
        """Make what was seen survive an interruption."""
        self._cursor.execute("COMMIT")
        self._cursor.execute("BEGIN")

    def close(self) -> None:
        """Give the file back."""
        self._db.close()
