"""Ratings in memory or mapped from disk: as they were read, by user, and split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from overnight.data.ratings.ids import Ids, Indices, sorted_ids
from overnight.data.ratings.sequences import NO_TIME, finite_values, named, seconds
from overnight.errors import UserError

__all__ = ["BLOCK", "NO_TIME", "RatingMatrix", "RatingSplits", "RatingTable"]

Offsets = npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]
Times = npt.NDArray[np.int64]
BLOCK = 1 << 18
"""Ratings that are worked on at once."""


@dataclass(frozen=True)
class RatingTable:
    """Ratings in the order in which they were read. Which are there is said by their being listed, never by a value.

    Attributes:
        user, item: int32 [N], indices into ``users`` and ``items``.
        value: float32 [N].
        timestamp: int64 [N], seconds since 1970; None without times.
        users, items: the ids.
    """

    user: Indices
    item: Indices
    value: Values
    timestamp: Times | None
    users: Ids
    items: Ids

    def __len__(self) -> int:
        return len(self.value)

    @classmethod
    def from_arrays(
        cls,
        users: Sequence[Any],
        items: Sequence[Any],
        values: Sequence[float],
        timestamps: Sequence[Any] | None = None,
    ) -> RatingTable:
        """From columns of equal length.

        Args:
            users, items: ids of any kind, told apart by their text.
            values: the ratings.
            timestamps: seconds since 1970, dates as NumPy understands them, or None where one is missing.

        Raises:
            UserError: for columns of different lengths, an empty id, a rating that is not a finite number, a time that
                cannot be read: it says which.

        >>> table = RatingTable.from_arrays(["ann", "bob"], [7, 3], [0.0, -1.5])
        >>> table.item.tolist(), table.items[0]
        ([1, 0], 3)
        """
        sizes = {len(users), len(items), len(values), len(values if timestamps is None else timestamps)}
        if len(sizes) > 1:
            raise UserError("The columns of the ratings differ in length.", "Give one user, item and value a rating.")
        value = finite_values(values)
        (user, user_ids), (item, item_ids) = _indexed(users, "user"), _indexed(items, "item")
        times = None if timestamps is None else seconds(timestamps)
        return cls(user, item, value, times, user_ids, item_ids)

    def check_scale(self, scale: tuple[float, float] | None) -> None:
        """Refuse a rating outside.

        Raises:
            UserError: for the first; it says which.
        """
        low, high = scale or (-np.inf, np.inf)
        bad = np.flatnonzero((self.value < low) | (self.value > high))
        if len(bad):
            raise UserError(
                f"Rating {bad[0]} is {self.value[bad[0]]:g}, outside the scale from {low:g} to {high:g}.",
                "Correct it, leave it out, or give the scale that the ratings have.",
            )


def _indexed(names: Sequence[Any], kind: str) -> tuple[Indices, Ids]:
    distinct, place = np.unique(named(names, kind), return_inverse=True)
    ids, order = sorted_ids([str(name) for name in distinct.tolist()])
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    return rank[place.reshape(-1)], ids


@dataclass(frozen=True)
class RatingMatrix:
    """Ratings by user (compressed sparse rows), items rising in each; arrays or memory maps.

    Attributes:
        offsets: int64 [U + 1]; user u has the ratings ``offsets[u]`` to before ``offsets[u + 1]``.
        items: int32 [N], 0 to below ``item_count``.
        values: float32 [N].
        timestamps: int64 [N], or None.
        item_count: columns, also of items that nobody here rated.
    """

    offsets: Offsets
    items: Indices
    values: Values
    timestamps: Times | None
    item_count: int

    def __len__(self) -> int:
        return len(self.values)

    @property
    def user_count(self) -> int:
        """Rows, also of users without a rating here."""
        return len(self.offsets) - 1

    @property
    def counts(self) -> Offsets:
        """Ratings of each user."""
        return np.diff(self.offsets)

    def cells(self, users: npt.NDArray[np.int64]) -> tuple[Offsets, npt.NDArray[np.int64]]:
        """Of these users, in their order: where each one's ratings start in what follows, and the places of all.

        >>> matrix = RatingMatrix(np.array([0, 2, 3]), np.array([0, 1, 1]), np.ones(3, np.float32), None, 2)
        >>> [part.tolist() for part in matrix.cells(np.array([1, 0]))]
        [[0, 1, 3], [2, 0, 1]]
        """
        starts = self.offsets[users]
        lengths = self.offsets[users + 1] - starts
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return offsets, places

    def blocks(self, size: int = BLOCK) -> Iterator[tuple[int, int]]:
        """Users from and to, of about so many ratings each."""
        first = 0
        while first < self.user_count:
            last = int(np.searchsorted(self.offsets, self.offsets[first] + size, side="right")) - 1
            last = min(self.user_count, max(first + 1, last))
            yield first, last
            first = last

    def transposed(self) -> RatingMatrix:
        """The same ratings by item, in memory: its rows are items and its columns users."""
        users = np.repeat(np.arange(self.user_count, dtype=np.int32), self.counts)
        order = np.argsort(self.items, kind="stable")
        counts = np.bincount(self.items, minlength=self.item_count)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        times = None if self.timestamps is None else self.timestamps[order]
        return RatingMatrix(offsets, users[order], self.values[order], times, self.user_count)

    @cached_property
    def mean(self) -> float:
        """Of all ratings; NaN if there are none."""
        total = sum(float(self.values[at : at + BLOCK].sum(dtype=np.float64)) for at in range(0, len(self), BLOCK))
        return total / len(self) if len(self) else float("nan")

    @cached_property
    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest rating; NaN if there are none.

        >>> RatingMatrix(np.array([0, 2]), np.array([0, 1]), np.array([3, -1], np.float32), None, 2).bounds
        (-1.0, 3.0)
        """
        parts = [self.values[at : at + BLOCK] for at in range(0, len(self), BLOCK)]
        if not parts:
            return float("nan"), float("nan")
        return min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of which ratings there are."""
        found = hashlib.sha256(f"{self.user_count} {self.item_count}".encode())
        for column in (self.offsets, self.items, self.values):
            for at in range(0, len(column), BLOCK):
                found.update(np.ascontiguousarray(column[at : at + BLOCK]).data)
        return found.hexdigest()


@dataclass(frozen=True)
class RatingSplits:
    """What is trained on and what is held out, of the same users and items.

    Attributes:
        train, valid, test: their rows are ``users``, their columns ``items``; there is a rating of each in ``train``.
        users, items: the ids.
        dropped: by held-out split, what was left out because training has nothing of it: ``ratings``, of them
            ``cold_users`` and ``cold_items`` (a rating may be both), and ``squared_error``: the sum of their squared
            distances from the training mean, for those who want them counted as answered by it.
    """

    train: RatingMatrix
    valid: RatingMatrix
    test: RatingMatrix
    users: Ids
    items: Ids
    dropped: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def transposed(self) -> RatingSplits:
        """The same with rows for items and columns for users, in memory."""
        train, valid, test = (matrix.transposed() for matrix in (self.train, self.valid, self.test))
        return RatingSplits(train, valid, test, self.items, self.users, self.dropped)

    def split(self, name: str) -> RatingMatrix:
        """``train``, ``valid`` or ``test``.

        Raises:
            UserError: another name.
        """
        if name not in ("train", "valid", "test"):
            raise UserError(f"There is no split {name!r} of ratings.", "Choose train, valid or test.")
        found: RatingMatrix = getattr(self, name)
        return found
