"""Whether the items that a user took are at the top of a recommender's list, and errors of any predictor of ratings.

Shape suffixes: N ratings, B users, n items, K places of a list.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from overnight.data.ratings.batches import gather
from overnight.data.ratings.table import BLOCK, RatingMatrix
from overnight.errors import UserError

Indices = npt.NDArray[np.integer[Any]]
Scores = Callable[[RatingMatrix, Indices], npt.NDArray[np.floating[Any]]]
"""Ratings that are shown, and which of their rows → [B, n], more for what is better."""
Predict = Callable[[Indices, Indices], npt.NDArray[np.floating[Any]]]
"""Users and items of pairs → [N]."""
CELLS = 1 << 23
"""Scores that are in memory at once; the result does not depend on it."""


@dataclass(frozen=True)
class Errors:
    """RMSE and mean absolute error over so many ratings."""

    rmse: float
    mae: float
    ratings: int


@dataclass(frozen=True)
class Ranking:
    """Means over users, by the length of the list.

    Attributes:
        recall: of the held-out items the share that is listed; of min(k, held-out items), so that 1 can be reached.
        ndcg: the same with a weight of 1 / log₂(1 + place), divided by the most that could be.
        users: with at least one held-out item.
    """

    recall: dict[int, float]
    ndcg: dict[int, float]
    users: int


def evaluate_errors(predict: Predict, wanted: RatingMatrix) -> Errors:
    """Errors of a predictor on all of ``wanted``, some thousand ratings at a time.

    Raises:
        UserError: if there is no rating to score, or a prediction that is no finite number.

    >>> wanted = RatingMatrix(np.array([0, 2]), np.array([0, 1]), np.array([1, 5], np.float32), None, 2)
    >>> evaluate_errors(lambda users, items: np.full(len(users), 4.0), wanted)
    Errors(rmse=2.23606797749979, mae=2.0, ratings=2)
    """
    if not len(wanted):
        raise UserError("There is no held-out rating to score.", "Hold some out, or name a file of them.")
    squared = absolute = 0.0
    for first, last in wanted.blocks(BLOCK):
        span = slice(int(wanted.offsets[first]), int(wanted.offsets[last]))
        users_N = np.repeat(np.arange(first, last), wanted.counts[first:last])
        error_N = np.asarray(predict(users_N, wanted.items[span]), dtype=np.float64) - wanted.values[span]
        squared, absolute = squared + float(error_N @ error_N), absolute + float(np.abs(error_N).sum())
    if not math.isfinite(squared):
        raise UserError("A prediction is no finite number.", "Train with a lower rate, or leave the model away.")
    return Errors(math.sqrt(squared / len(wanted)), absolute / len(wanted), len(wanted))


def evaluate_ranking(
    scores: Scores,
    shown: RatingMatrix,
    wanted: RatingMatrix,
    k: Sequence[int] = (10, 100),
    *,
    relevant: float | None = None,
) -> Ranking:
    """recall@k and NDCG@k of lists without what was shown, for the users that have held-out items.

    recall@k = hits / min(k, held-out items); NDCG@k = Σ over hits 1 / log₂(1 + place) by its largest possible value,
    with gains of 0 and 1 (Liang et al. 2018, arXiv 1802.05814). Equal scores stand in the order of items.

    Args:
        scores: of some users for all items, from what is shown; ``ModelScores`` or a baseline's ``scores``.
        shown: the ratings that are known; their items are never listed.
        wanted: held-out ratings, rows and columns as in ``shown``.
        k: lengths of the list.
        relevant: held-out ratings of at least this count as items to be found; None counts all.

    Raises:
        UserError: for lists shorter than 1, no user with an item to find, or a score that is NaN.

    >>> shown = RatingMatrix(np.array([0, 1]), np.array([0]), np.ones(1, np.float32), None, 4)
    >>> wanted = RatingMatrix(np.array([0, 1]), np.array([2]), np.ones(1, np.float32), None, 4)
    >>> evaluate_ranking(lambda shown, users: np.array([[4.0, 3.0, 2.0, 1.0]]), shown, wanted, k=(1, 2))
    Ranking(recall={1: 0.0, 2: 1.0}, ndcg={1: 0.0, 2: 0.6309297535714575}, users=1)
    """
    if not k or min(k) < 1:
        raise UserError(f"Lists of {tuple(k)} items cannot be.", "Take at least 1.")
    size = max(1, CELLS // shown.item_count)
    users = np.flatnonzero(wanted.counts)
    recall, ndcg, found = dict.fromkeys(k, 0.0), dict.fromkeys(k, 0.0), 0
    for at in range(0, len(users), size):
        users_B = users[at : at + size]
        score_Bn = np.array(scores(shown, users_B), dtype=np.float64)
        if np.isnan(score_Bn).any():
            raise UserError("A score is NaN.", "Train with a lower rate, or leave the model away.")
        seen_Bn, taken_Bn = _marked(shown, users_B, None), _marked(wanted, users_B, relevant)
        taken_Bn &= ~seen_Bn
        score_Bn[seen_Bn] = -np.inf
        asked_B = taken_Bn.any(1)
        found += int(asked_B.sum())
        listed_BK = top(score_Bn[asked_B], min(max(k), shown.item_count))
        hit_BK = np.take_along_axis(taken_Bn[asked_B], listed_BK, 1)
        total_B, discount_K = taken_Bn[asked_B].sum(1), 1 / np.log2(np.arange(2, hit_BK.shape[1] + 2))
        ideal_K = np.cumsum(discount_K)
        for length in recall:
            most_B = np.minimum(min(length, hit_BK.shape[1]), total_B)
            hits_Bk = hit_BK[:, :length]
            recall[length] += float((hits_Bk.sum(1) / most_B).sum())
            ndcg[length] += float((hits_Bk @ discount_K[:length] / ideal_K[most_B - 1]).sum())
    if not found:
        raise UserError("No user has a held-out item that is to be found.", "Hold some out, or lower ``relevant``.")
    return Ranking(
        {length: total / found for length, total in recall.items()},
        {length: total / found for length, total in ndcg.items()},
        found,
    )


def top(score_Bn: npt.NDArray[np.floating[Any]], k: int) -> npt.NDArray[np.int64]:
    """The k items [B, k] of the highest scores, best first; equal ones in the order of items.

    >>> top(np.array([[1.0, 3.0, 3.0, 2.0]]), 3).tolist()
    [[1, 2, 3]]
    """
    last_B1 = np.partition(score_Bn, -k, axis=1)[:, -k, None] if len(score_Bn) else np.zeros((0, 1))
    better_Bn, equal_Bn = score_Bn > last_B1, score_Bn == last_B1
    equal_Bn &= np.cumsum(equal_Bn, 1) <= k - better_Bn.sum(1, keepdims=True)
    item_Bk = np.nonzero(better_Bn | equal_Bn)[1].reshape(len(score_Bn), k)
    order_Bk = np.argsort(-np.take_along_axis(score_Bn, item_Bk, 1), axis=1, kind="stable")
    return np.take_along_axis(item_Bk, order_Bk, 1)


class ModelScores:
    """What a ``RatingAutoencoder`` says of all items, for ``evaluate_ranking``; make a new one after more training.

    Args:
        model: it is in evaluation mode during a call.
        by_item: ratings by item, if the rows that the model was trained on are items; what it is shown then are these,
            and users are among them.
    """

    def __init__(self, model: Any, by_item: RatingMatrix | None = None) -> None:
        self.model, self.by_item = model, by_item
        self._items: Any = None

    @torch.no_grad()
    def __call__(self, shown: RatingMatrix, users: Indices) -> npt.NDArray[np.floating[Any]]:
        device, training = next(self.model.parameters()).device, self.model.training
        self.model.eval()
        try:
            users_B = np.asarray(users, dtype=np.int64)
            if self.by_item is None:
                seen = gather(shown, users_B).to(device)
                said = self.model.dense(self.model.hidden(seen.offset_B, seen.item_N, seen.value_N))
            else:
                if self._items is None:
                    seen = gather(self.by_item, np.arange(self.by_item.user_count)).to(device)
                    self._items = self.model.hidden(seen.offset_B, seen.item_N, seen.value_N)
                said = self.model.dense(self._items, torch.from_numpy(users_B).to(device)).t()
        finally:
            self.model.train(training)
        found: npt.NDArray[np.floating[Any]] = said.double().cpu().numpy()
        return found


def _marked(matrix: RatingMatrix, users_B: Indices, relevant: float | None) -> npt.NDArray[np.bool_]:
    """Which items a user has: [B, n]."""
    offsets, places = matrix.cells(np.asarray(users_B, dtype=np.int64))
    marked = np.zeros((len(users_B), matrix.item_count), dtype=np.bool_)
    rows = np.repeat(np.arange(len(users_B)), np.diff(offsets))
    kept = slice(None) if relevant is None else matrix.values[places] >= relevant
    marked[rows[kept], matrix.items[places][kept]] = True
    return marked
