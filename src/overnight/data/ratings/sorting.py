"""Ratings as they come → a matrix by user, duplicates settled, in memory that does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from overnight.data.ratings.columns import MatrixWriter
from overnight.data.ratings.ids import Ids, Indices, Interner
from overnight.data.ratings.reading import RatingBlock
from overnight.data.ratings.table import BLOCK, NO_TIME, RatingMatrix, RatingTable
from overnight.errors import UserError

RECORD = np.dtype([("user", "<i4"), ("item", "<i4"), ("value", "<f4"), ("timestamp", "<i8")])
"""A rating on its way to its place."""
BUCKET = 1 << 20
"""Ratings that are sorted at once."""
Records = npt.NDArray[np.void]


class Gatherer:
    """Collects blocks, numbering their ids as they come; in memory, or in a file if there is a scratch folder.

    Args:
        scratch: where to write; None keeps everything in memory.
    """

    def __init__(self, scratch: Path | None = None) -> None:
        self._numbers = Interner(), Interner()
        self._parts: list[Records] = []
        self._path = scratch / "ratings.spool" if scratch is not None else None
        if self._path is not None:
            self._path.write_bytes(b"")
        self.count = 0
        self.timed = True

    def add(self, block: RatingBlock) -> None:
        """Some more ratings."""
        records = np.empty(len(block), dtype=RECORD)
        records["user"] = self._numbers[0].add(block.user_names)[block.user]
        records["item"] = self._numbers[1].add(block.item_names)[block.item]
        records["value"] = block.value
        records["timestamp"] = NO_TIME if block.timestamp is None else block.timestamp
        self.timed = self.timed and block.timestamp is not None
        self.count += len(block)
        if self._path is None:
            self._parts.append(records)
        else:
            with open(self._path, "ab") as file:
                file.write(records.tobytes())

    def finish(self) -> Gathered:
        """Everything, its ids sorted."""
        (users, user_rank), (items, item_rank) = (numbers.finish() for numbers in self._numbers)
        if self._path is None:
            records = np.concatenate([np.empty(0, RECORD), *self._parts])
            self._parts = []
        else:
            records = np.memmap(self._path, RECORD, "r") if self.count else np.empty(0, RECORD)
        return Gathered(records, users, items, (user_rank, item_rank), self.timed and self.count > 0)


class Gathered:
    """Ratings in the order in which they were read.

    Args:
        records: those of ``RECORD``, with the numbers that ids had as they came.
        users, items: the ids.
        ranks: what those numbers become; None leaves them.
        timed: whether there is a column of times.
    """

    def __init__(
        self, records: Records, users: Ids, items: Ids, ranks: tuple[Indices | None, Indices | None], timed: bool
    ) -> None:
        self.records, self.users, self.items, self.ranks, self.timed = records, users, items, ranks, timed

    def __len__(self) -> int:
        return len(self.records)

    def part(self, start: int, stop: int) -> Gathered:
        """Those from ``start`` to before ``stop``, of the same users and items."""
        return Gathered(self.records[start:stop], self.users, self.items, self.ranks, self.timed)

    @classmethod
    def of(cls, table: RatingTable) -> Gathered:
        """Those of a table."""
        records = np.empty(len(table), dtype=RECORD)
        records["user"], records["item"], records["value"] = table.user, table.item, table.value
        records["timestamp"] = NO_TIME if table.timestamp is None else table.timestamp
        return cls(records, table.users, table.items, (None, None), table.timestamp is not None)

    def blocks(self, size: int = BLOCK) -> Iterator[Records]:
        """Some at a time, with the indices of their ids."""
        for start in range(0, len(self.records), size):
            part = np.array(self.records[start : start + size])
            for name, rank in zip(("user", "item"), self.ranks, strict=True):
                if rank is not None:
                    part[name] = rank[part[name]]
            yield part


def sort_ratings(
    gathered: Gathered, duplicates: str, writer: MatrixWriter, scratch: Path | None = None, bucket: int = BUCKET
) -> None:
    """Write a matrix: rows are users, items rise in each.

    Memory: that of ``bucket`` ratings, or of the user with the most if that is more.

    Args:
        gathered: the ratings.
        duplicates: ``error``, ``last`` or ``mean`` (see ``RatingSettings``).
        writer: takes the rows.
        scratch: where to put ratings aside if there are more than ``bucket``; None sorts all at once.
        bucket: ratings that are sorted at once.

    Raises:
        UserError: for a duplicate with ``error``; it names user and item.
    """
    counts = np.zeros(len(gathered.users), dtype=np.int64)
    for part in gathered.blocks():
        counts += np.bincount(part["user"], minlength=len(counts))
    edges = _edges(counts, bucket if scratch is not None else max(1, len(gathered)))
    for first, last, records in _buckets(gathered, edges, scratch):
        _sort_one(records, first, last, gathered, duplicates, writer)


def _edges(counts: npt.NDArray[np.int64], bucket: int) -> npt.NDArray[np.int64]:
    """Users at which buckets begin, and how many there are."""
    ends = np.cumsum(counts)
    edges = [0]
    while edges[-1] < len(counts):
        before = ends[edges[-1] - 1] if edges[-1] else 0
        edges.append(max(edges[-1] + 1, int(np.searchsorted(ends, before + bucket, side="right"))))
    return np.array(edges, dtype=np.int64)


def _buckets(
    gathered: Gathered, edges: npt.NDArray[np.int64], scratch: Path | None
) -> Iterable[tuple[int, int, Records]]:
    if len(edges) <= 2 or scratch is None:
        parts = list(gathered.blocks())
        yield 0, int(edges[-1]), np.concatenate([np.empty(0, RECORD), *parts])
        return
    paths = [scratch / f"bucket.{place}" for place in range(len(edges) - 1)]
    files = [open(path, "wb") for path in paths]  # noqa: SIM115
    try:
        for part in gathered.blocks():
            place = np.searchsorted(edges, part["user"], side="right") - 1
            order = np.argsort(place, kind="stable")
            cuts = np.searchsorted(place[order], np.arange(len(files) + 1))
            for index, file in enumerate(files):
                if cuts[index] < cuts[index + 1]:
                    file.write(part[order[cuts[index] : cuts[index + 1]]].tobytes())
    finally:
        for file in files:
            file.close()
    for index, path in enumerate(paths):
        yield int(edges[index]), int(edges[index + 1]), np.fromfile(path, dtype=RECORD)
        path.unlink()


def _sort_one(
    records: Records, first: int, last: int, gathered: Gathered, duplicates: str, writer: MatrixWriter
) -> None:
    key = records["user"].astype(np.int64) * len(gathered.items) + records["item"]
    # both sorts are stable: the reading order stands where times are the same
    order = np.lexsort((records["timestamp"], key)) if duplicates == "last" else np.argsort(key, kind="stable")
    key, records = key[order], records[order]
    again = np.flatnonzero(key[1:] == key[:-1])
    if len(again):
        if duplicates == "error":
            found = records[again[0]]
            raise UserError(
                f"User {gathered.users[int(found['user'])]} rated item {gathered.items[int(found['item'])]} more than "
                f"once; there are {len(again):,} such ratings"
                f"{'' if last == len(gathered.users) and not first else ' among the first users'}.",
                "Say which counts with --duplicates last or mean.",
            )
        starts = np.flatnonzero(np.concatenate([[True], key[1:] != key[:-1]]))
        ends = np.append(starts[1:], len(key))
        kept = records[ends - 1].copy()
        if duplicates == "mean":
            kept["value"] = np.add.reduceat(records["value"].astype(np.float64), starts) / (ends - starts)
            kept["timestamp"] = np.maximum.reduceat(records["timestamp"], starts)
        records = kept
    counts = np.bincount(records["user"] - first, minlength=last - first).astype(np.int64)
    times = records["timestamp"] if gathered.timed else None
    writer.append(counts, records["item"], records["value"], times)


def matrix_of(gathered: Gathered, duplicates: str = "error") -> RatingMatrix:
    """The matrix in memory.

    Raises:
        UserError: for a duplicate with ``error``.
    """
    writer = MatrixWriter(None, "all", gathered.timed)
    sort_ratings(gathered, duplicates, writer)
    return writer.finish(len(gathered.items))[0]
