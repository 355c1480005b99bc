"""Which ratings are trained on and which are held out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overnight.data.ratings.columns import MatrixWriter
from overnight.data.ratings.ids import Ids
from overnight.data.ratings.settings import RatingSettings
from overnight.data.ratings.table import BLOCK, NO_TIME, RatingMatrix, RatingSplits
from overnight.errors import UserError

TRAIN, VALID, TEST = 0, 1, 2
NAMES = ("train", "valid", "test")
Labels = npt.NDArray[np.uint8]
Labelled = Iterator[tuple[int, int, Labels]]
_DAY = 86_400
_BINS = 1 << 16


def label(matrix: RatingMatrix, settings: RatingSettings, users: Ids, items: Ids) -> Callable[[], Labelled]:
    """Where each rating goes: a function that gives, as often as it is called, users from and to and their labels.

    Raises:
        UserError: for a split by time where times are missing or lie in the future.
    """
    shares = (settings.valid, settings.test)
    if settings.split == "random":
        return lambda: _random(matrix, shares, settings.seed)
    _check_times(matrix, settings.split, users, items)
    if settings.split == "leave-last":
        return lambda: _leave_last(matrix, int(settings.valid), int(settings.test))
    cutoff = time_cutoff(matrix, settings.heldout) if settings.heldout else np.iinfo(np.int64).max
    return lambda: _by_time(matrix, cutoff, shares, settings.seed)


def _random(matrix: RatingMatrix, shares: tuple[float, float], seed: int) -> Labelled:
    generator = np.random.default_rng(seed)
    for first, last in matrix.blocks():
        drawn = generator.random(int(matrix.offsets[last] - matrix.offsets[first]))
        labels = np.where(drawn < shares[1], TEST, np.where(drawn < sum(shares), VALID, TRAIN))
        yield first, last, labels.astype(np.uint8)


def _by_time(matrix: RatingMatrix, cutoff: int, shares: tuple[float, float], seed: int) -> Labelled:
    """Before the cutoff training; after it each rating is test or valid by a coin, as Kuchaiev and Ginsburg have it."""
    assert matrix.timestamps is not None
    generator = np.random.default_rng(seed)
    valid_share = shares[0] / sum(shares) if sum(shares) else 0.0
    for first, last in matrix.blocks():
        times = matrix.timestamps[matrix.offsets[first] : matrix.offsets[last]]
        later = np.where(generator.random(len(times)) < valid_share, VALID, TEST)
        yield first, last, np.where(times < cutoff, TRAIN, later).astype(np.uint8)


def _leave_last(matrix: RatingMatrix, valid: int, test: int) -> Labelled:
    """Of each user the last ``test`` ratings, and the ``valid`` before them; users with no more than these keep all."""
    assert matrix.timestamps is not None
    for first, last in matrix.blocks():
        start, stop = matrix.offsets[first], matrix.offsets[last]
        counts = np.diff(matrix.offsets[first : last + 1])
        row = np.repeat(np.arange(last - first), counts)
        order = np.lexsort((matrix.timestamps[start:stop], row))
        # after the sort rows stand as before, so a rating's place from its row's end is known
        from_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(row)) - 1
        enough = np.repeat(counts > valid + test, counts)
        sorted_labels = np.where(from_end < test, TEST, np.where(from_end < valid + test, VALID, TRAIN))
        labels = np.empty(len(row), dtype=np.uint8)
        labels[order] = np.where(enough, sorted_labels, TRAIN)
        yield first, last, labels


def time_cutoff(matrix: RatingMatrix, heldout: float) -> int:
    """The time from which ratings are held out: the one at place ⌊(1 - heldout) · N⌋ of all times, sorted.

    Found by counting in ever smaller bins, a block at a time, since to sort a hundred million takes memory.
    """
    assert matrix.timestamps is not None
    rank = min(len(matrix) - 1, int((1 - heldout) * len(matrix)))
    parts = range(0, len(matrix), BLOCK)
    low = min(int(matrix.timestamps[at : at + BLOCK].min()) for at in parts)
    high = max(int(matrix.timestamps[at : at + BLOCK].max()) for at in parts)
    while low < high:
        width = -(-(high - low + 1) // _BINS)
        counts = np.zeros(_BINS, dtype=np.int64)
        for at in parts:
            times = matrix.timestamps[at : at + BLOCK]
            times = times[(times >= low) & (times <= high)]
            counts += np.bincount((times - low) // width, minlength=_BINS)
        ends = np.cumsum(counts)
        found = int(np.searchsorted(ends, rank, side="right"))
        rank -= int(ends[found - 1]) if found else 0
        low, high = low + found * width, min(high, low + (found + 1) * width - 1)
    return low


def _check_times(matrix: RatingMatrix, split: str, users: Ids, items: Ids) -> None:
    if matrix.timestamps is None:
        raise UserError(f"The ratings have no times, which --split {split} needs.", "Take --split random.")
    future = time.time() + _DAY
    for at in range(0, len(matrix), BLOCK):
        times = matrix.timestamps[at : at + BLOCK]
        for bad, why in ((times == NO_TIME, "has no time"), (times > future, "")):
            if not bad.any():
                continue
            place = at + int(np.flatnonzero(bad)[0])
            user = users[int(np.searchsorted(matrix.offsets, place, side="right")) - 1]
            item = items[int(matrix.items[place])]
            why = why or f"is dated {_date(int(matrix.timestamps[place]))}, in the future"
            raise UserError(
                f"The rating of item {item} by user {user} {why}; --split {split} goes by times.",
                "Give all times in seconds since 1970 or as dates, or take --split random.",
            )


def _date(seconds: int) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s after 1970 (milliseconds?)"


@dataclass(frozen=True)
class Source:
    """Ratings, where each goes, and to which splits any of them do."""

    matrix: RatingMatrix
    labels: Callable[[], Labelled]
    feeds: tuple[str, ...]


def split_ratings(
    sources: Sequence[Source], users: Ids, items: Ids, folder: Path | None = None
) -> tuple[RatingSplits, dict[str, dict[str, str | int]]]:
    """Cut ratings; users and items without a training rating are left out everywhere, and counted.

    Args:
        sources: the first has the training ratings; no two feed one split.
        users, items: the ids of all.
        folder: where to write; None keeps the splits in memory.

    Returns:
        The splits, and of each file its bytes and sha256.

    Raises:
        UserError: if no ratings, or only one user's or one item's, are left to train on.
    """
    matrix = sources[0].matrix
    user_counts, item_counts = np.zeros(len(users), np.int64), np.zeros(len(items), np.int64)
    total = 0.0
    for first, last, labelled in sources[0].labels():
        start, stop = matrix.offsets[first], matrix.offsets[last]
        train = labelled == TRAIN
        row = np.repeat(np.arange(last - first), np.diff(matrix.offsets[first : last + 1]))
        user_counts[first:last] = np.bincount(row[train], minlength=last - first)
        item_counts += np.bincount(matrix.items[start:stop][train], minlength=len(items))
        total += float(matrix.values[start:stop][train].sum(dtype=np.float64))
    keep_users, keep_items = user_counts > 0, item_counts > 0
    _check_enough(int(keep_users.sum()), int(keep_items.sum()), users, items, keep_users, keep_items)
    mean = total / float(user_counts.sum())
    new_item = np.where(keep_items, np.cumsum(keep_items) - 1, -1).astype(np.int32)
    timed = all(source.matrix.timestamps is not None for source in sources)
    writers = [MatrixWriter(folder, name, timed) for name in NAMES]
    dropped: dict[str, dict[str, float]] = {
        name: {"ratings": 0, "cold_users": 0, "cold_items": 0, "squared_error": 0.0} for name in NAMES[1:]
    }
    try:
        for source in sources:
            matrix, feeds = source.matrix, [NAMES.index(name) for name in source.feeds]
            for first, last, labelled in source.labels():
                cells = slice(matrix.offsets[first], matrix.offsets[last])
                row = np.repeat(np.arange(last - first), np.diff(matrix.offsets[first : last + 1]))
                item, value = new_item[matrix.items[cells]], matrix.values[cells]
                times = matrix.timestamps[cells] if timed and matrix.timestamps is not None else None
                cold_user, cold_item = ~keep_users[first:last][row], item < 0
                for place in feeds:
                    own = labelled == place
                    kept = own & ~cold_user & ~cold_item
                    counts = np.bincount(row[kept], minlength=last - first)[keep_users[first:last]]
                    writers[place].append(counts, item[kept], value[kept], times[kept] if times is not None else None)
                    if place != TRAIN:
                        _count(dropped[NAMES[place]], own, cold_user, cold_item, value, mean)
        made: list[tuple[RatingMatrix, Any]] = [writer.finish(int(keep_items.sum())) for writer in writers]
    except BaseException:
        for writer in writers:
            writer.abandon()
        raise
    files = {name: about for _, part in made for name, about in part.items()}
    train, valid, test = (matrix for matrix, _ in made)
    return RatingSplits(train, valid, test, users.kept(keep_users), items.kept(keep_items), dropped), files


def _count(
    dropped: dict[str, float],
    own: npt.NDArray[np.bool_],
    cold_user: npt.NDArray[np.bool_],
    cold_item: npt.NDArray[np.bool_],
    value: npt.NDArray[np.float32],
    mean: float,
) -> None:
    cold = own & (cold_user | cold_item)
    dropped["ratings"] += int(cold.sum())
    dropped["cold_users"] += int((own & cold_user).sum())
    dropped["cold_items"] += int((own & cold_item).sum())
    dropped["squared_error"] += float(((value[cold].astype(np.float64) - mean) ** 2).sum())


def _check_enough(
    user_count: int,
    item_count: int,
    users: Ids,
    items: Ids,
    keep_users: npt.NDArray[np.bool_],
    keep_items: npt.NDArray[np.bool_],
) -> None:
    if not user_count:
        raise UserError("No rating is left to train on.", "Hold fewer out.")
    for count, kind, ids, keep in ((user_count, "user", users, keep_users), (item_count, "item", items, keep_items)):
        if count == 1:
            raise UserError(
                f"All training ratings are of one {kind}, {ids[int(np.flatnonzero(keep)[0])]}.",
                f"Give ratings of at least two {kind}s.",
            )
