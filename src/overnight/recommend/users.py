"""What one user is told: predictions and recommendations, of a user in training or of one who comes later."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from overnight.data.ratings.batches import RatingBatch
from overnight.data.ratings.ids import Ids, Indices
from overnight.data.ratings.sequences import finite_values, named
from overnight.errors import UserError
from overnight.recommend.answers import Answers, Values

Scale = tuple[float, float] | None


class UnknownIdWarning(UserWarning):
    """Something was asked of a user or an item without a training rating; the biases have answered."""


class Recommendation(NamedTuple):
    """An item, and the rating that it would get."""

    item: int | str
    rating: float


class FoldedUser:
    """A user known by some ratings alone, as ``Recommender.fold_in`` gives it.

    Args:
        answers: of a net with a row for each user.
        items: the ids.
        ratings: (items, values), each item once.
        scale: the lowest and the highest rating there may be.

    Raises:
        UserError: for ratings that cannot be used.
    """

    def __init__(
        self, answers: Answers, items: Ids, ratings: tuple[Sequence[Any], Sequence[Any]], scale: Scale
    ) -> None:
        self._answers, self._items, self._bounds = answers, items, answers.model.bounds or scale
        if len(ratings[0]) != len(ratings[1]):
            raise UserError("Items and ratings differ in number.", "Give one rating for each item.")
        value_N, place_N = finite_values(ratings[1]), places(items, ratings[0], "item")
        low, high = scale or (-np.inf, np.inf)
        for bad_N, why in (
            ((value_N < low) | (value_N > high), f"is outside the scale from {low:g} to {high:g}"),
            (_again(place_N), "is not the first of that item"),
        ):
            if bad_N.any():
                at = int(np.flatnonzero(bad_N)[0])
                problem = f"The rating {value_N[at]:g} of item {ratings[0][at]} {why}."
                raise UserError(problem, "Correct it, or leave it out.")
        unknown = int((place_N < 0).sum())
        if unknown:
            flag(f"{unknown:,} of this user's {len(place_N):,} items have no training rating; they are left out")
        self.seen: Indices = place_N[place_N >= 0]
        batch = one_row(self.seen, value_N[place_N >= 0])
        self._bias = answers.biases.fold_in(self.seen, value_N[place_N >= 0])
        self._scores = answers.row(batch) if len(self.seen) else answers.of_biases(len(items), rows=False)

    def predict(self, items: Sequence[Any], *, return_known: bool = False) -> Any:
        """The rating [N] that the user would give each item, as ``Recommender.predict`` has it."""
        place_N = places(self._items, items, "item")
        known_N = place_N >= 0
        found_N = np.where(known_N, self._scores[place_N], self._answers.biases.mean + self._bias)
        return told(found_N, known_N, self._bounds, return_known)

    def recommend(self, n: int = 10, *, exclude_seen: bool = True) -> list[Recommendation]:
        """The n items that the user would rate highest, the best first."""
        return ranked(self._scores, self._items, n, self.seen if exclude_seen else None, self._bounds)


def one_row(columns: Indices, values: npt.NDArray[np.float32]) -> RatingBatch:
    """A batch of one row that is not in any matrix."""
    order = np.argsort(columns, kind="stable")
    return RatingBatch(
        torch.tensor([-1]),
        torch.tensor([0, len(order)]),
        torch.from_numpy(columns[order].astype(np.int64)),
        torch.from_numpy(values[order]),
        ratings=len(order),
        users=1,
    )


def places(ids: Ids, names: Sequence[Any], kind: str) -> Indices:
    """Where these ids stand, -1 for those that are not there.

    Raises:
        UserError: for one that is missing.
    """
    return ids.index(named(names, kind)) if len(names) else np.zeros(0, np.int32)


def told(found_N: Values, known_N: npt.NDArray[np.bool_], scale: Scale, return_known: bool) -> Any:
    """Predictions within the scale, and what is known of them: given if asked for, else told by a warning."""
    within_N = found_N if scale is None else np.clip(found_N, *scale)
    if return_known:
        return within_N, known_N
    if not known_N.all():
        unknown = int((~known_N).sum())
        flag(f"{unknown:,} of {len(known_N):,} predictions are of users or items without a training rating")
    return within_N


def ranked(scores: Values, items: Ids, n: int, without: npt.NDArray[Any] | None, scale: Scale) -> list[Recommendation]:
    """The n items with the highest scores; where they are equal, the one that stands first.

    Raises:
        UserError: for an n below 1.

    >>> scores, items = np.array([1.0, 3.0, 3.0, 2.0]), Ids(["a", "b", "c", "d"])
    >>> [found.item for found in ranked(scores, items, 2, np.array([1]), None)]
    ['c', 'd']
    """
    if n < 1:
        raise UserError(f"{n} items cannot be recommended.", "Ask for 1 or more.")
    left = np.ones(len(scores), dtype=np.bool_)
    left[[] if without is None else without] = False
    order = np.flatnonzero(left)
    order = order[np.argsort(-scores[order], kind="stable")][:n]
    within = scores[order] if scale is None else np.clip(scores[order], *scale)
    return [Recommendation(items[int(at)], rating) for at, rating in zip(order, within.tolist(), strict=True)]


def flag(problem: str) -> None:
    """Warn, as if from the line that called this package."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and frame.f_globals.get("__package__") == __package__:
        level, frame = level + 1, frame.f_back
    warnings.warn(f"{problem}; the biases answer.", UnknownIdWarning, stacklevel=level)


def _again(place_N: Indices) -> npt.NDArray[np.bool_]:
    """Which stand for an item that was there before."""
    first_N = np.zeros(len(place_N), dtype=np.bool_)
    first_N[np.unique(place_N, return_index=True)[1]] = True
    return ~first_N & (place_N >= 0)
