"""What a recommender is worth: errors by user and by time, lists of items, and the same of what it has to beat.

Shape suffixes: N held-out ratings, U users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from overnight.data.ratings.batches import Indices
from overnight.data.ratings.sequences import NO_TIME
from overnight.data.ratings.table import BLOCK, RatingMatrix, RatingSplits
from overnight.evaluate.ranking import ModelScores, Ranking, Scores, evaluate_ranking
from overnight.evaluate.rating_baselines import DampedBiases, damped_biases, ease

Squared = Mapping[str, npt.NDArray[np.float64]]
RANKED_CELLS = 100_000_000
"""Users × items at most that are ranked; of more users evenly spaced ones are."""
EASE_ITEMS = 10_000
"""Items at most for which EASE is computed here: inverting its matrix takes minutes beyond."""
TIMES = 12
"""Parts of the held-out time."""
LISTS = (10, 100)
"""Lengths of lists."""


def users_and_items(matrix: RatingMatrix, by: str) -> tuple[Indices, Indices]:
    """Of each rating [N], whatever the rows are."""
    rows = np.repeat(np.arange(matrix.user_count), matrix.counts)
    columns = np.asarray(matrix.items, dtype=np.int64)
    return (rows, columns) if by == "user" else (columns, rows)


def by_activity(count_N: npt.NDArray[Any], user_N: Indices, squared: Squared) -> list[dict[str, Any]]:
    """RMSE by how many ratings a user has in training: 1 to 10, to 20, to 50, to 100, and so on.

    Args:
        count_N: of the user of each held-out rating.
        user_N: who that is.
        squared: squared errors [N] by name.

    >>> parts = by_activity(np.array([3, 15, 15]), np.array([0, 1, 1]), {"rmse": np.array([4.0, 1.0, 1.0])})
    >>> [(part["low"], part["high"], part["users"], part["rmse"]) for part in parts]
    [(1, 10, 1, 2.0), (11, 20, 1, 1.0)]
    """
    found, low = [], 1
    for exponent in range(1, 12):
        for digit in (1, 2, 5):
            high = digit * 10**exponent
            inside = (count_N >= low) & (count_N <= high)
            if inside.any():
                users = len(np.unique(user_N[inside]))
                found.append({"low": low, "high": high, "users": users, **_rmses(squared, inside)})
            low = high + 1
    return found


def by_time(time_N: npt.NDArray[np.int64] | None, squared: Squared) -> list[dict[str, Any]]:
    """RMSE by when a rating was given, in equal parts of the held-out time; nothing without times.

    Args:
        time_N: seconds since 1970.
        squared: squared errors [N] by name.

    >>> [part["ratings"] for part in by_time(np.array([0, 5, 11]), {"rmse": np.ones(3)})]
    [1, 1, 1]
    """
    if time_N is None or not (time_N != NO_TIME).any():
        return []
    known = time_N != NO_TIME
    edges = np.linspace(time_N[known].min(), time_N[known].max() + 1, TIMES + 1)
    place = np.where(known, np.searchsorted(edges, time_N, side="right") - 1, -1)
    parts = [(edges[at], edges[at + 1], place == at) for at in range(TIMES)]
    return [{"low": int(a), "high": int(b), **_rmses(squared, inside)} for a, b, inside in parts if inside.any()]


def _rmses(squared: Squared, inside: npt.NDArray[np.bool_]) -> dict[str, Any]:
    rmses = {name: float(np.sqrt(error_N[inside].mean())) for name, error_N in squared.items()}
    return {"ratings": int(inside.sum()), **rmses}


def parts_of_error(
    splits: RatingSplits, split: str, by: str, said_N: npt.NDArray[np.float64], biases: DampedBiases | None = None
) -> dict[str, Any]:
    """``by_activity`` and ``by_time`` of predictions of a whole split, in its order, beside damped biases.

    Args:
        splits: rows are users, or items with ``by`` item.
        split: which was predicted.
        by: what a row is.
        said_N: the predictions.
        biases: those of training, if they are known already.
    """
    wanted, train = splits.split(split), by_user(splits.train, by)
    user_N, item_N = users_and_items(wanted, by)
    biased_N = (biases or damped_biases(train)).predict(user_N, item_N)
    rating_N = wanted.values.astype(np.float64)
    squared = {"rmse": (said_N - rating_N) ** 2, "biases_rmse": (biased_N - rating_N) ** 2}
    times = None if wanted.timestamps is None else np.asarray(wanted.timestamps)
    return {"by_activity": by_activity(train.counts[user_N], user_N, squared), "by_time": by_time(times, squared)}


def by_user(matrix: RatingMatrix, by: str) -> RatingMatrix:
    """The matrix with rows for users."""
    return matrix if by == "user" else matrix.transposed()


def rankings(
    model: nn.Module,
    splits: RatingSplits,
    split: str,
    by: str,
    *,
    k: Sequence[int] = LISTS,
    relevant: float | None = None,
    most: int = RANKED_CELLS,
    biases: DampedBiases | None = None,
) -> dict[str, Any]:
    """recall@k and NDCG@k of a model, of EASE, of damped biases and of the items that most have rated.

    Args:
        model: a ``RatingAutoencoder``.
        splits, split, by: as ``parts_of_error`` takes them.
        k: lengths of lists.
        relevant: least rating of an item that is to be found; None takes all that were held out.
        most: users × items that are scored.
        biases: those of training, if they are known already.

    Returns:
        ``k``, ``relevant``, ``users`` (that were ranked), ``of``: a list of ``name``, ``recall`` and ``ndcg``, of which
        the model's is the first; and ``left_out``, a sentence, if EASE was.
    """
    train, wanted = by_user(splits.train, by), by_user(splits.split(split), by)
    wanted = _some_users(wanted, max(1, most // train.item_count))
    scorers: dict[str, Scores] = {"this model": ModelScores(model, None if by == "user" else splits.train)}
    left_out = ""
    if train.item_count <= EASE_ITEMS:
        scorers["EASE"] = ease(train).scores
    else:
        left_out = f"EASE is left out: it inverts a matrix of {train.item_count:,} × {train.item_count:,} items."
    scorers["damped biases"] = (biases or damped_biases(train)).scores
    popular = np.zeros(train.item_count)
    for at in range(0, len(train), BLOCK):
        popular += np.bincount(train.items[at : at + BLOCK], minlength=train.item_count)
    scorers["the most rated items"] = lambda shown, users: np.broadcast_to(popular, (len(users), len(popular)))
    ranked: dict[str, Ranking] = {
        name: evaluate_ranking(scores, train, wanted, k, relevant=relevant) for name, scores in scorers.items()
    }
    lists = [{"name": name, "recall": list(it.recall.values()), "ndcg": list(it.ndcg.values())}
             for name, it in ranked.items()]  # fmt: skip
    found = {"k": list(k), "relevant": relevant, "users": ranked["this model"].users, "of": lists}
    return found | ({"left_out": left_out} if left_out else {})


def _some_users(wanted: RatingMatrix, count: int) -> RatingMatrix:
    """The same with held-out ratings of so many users at most, evenly spaced among those that have some."""
    users = np.flatnonzero(wanted.counts)
    if len(users) <= count:
        return wanted
    kept = np.zeros(wanted.user_count, dtype=np.bool_)
    kept[users[np.linspace(0, len(users) - 1, count).astype(np.int64)]] = True
    cells = np.repeat(kept, wanted.counts)
    offsets = np.concatenate([[0], np.cumsum(np.where(kept, wanted.counts, 0))]).astype(np.int64)
    return RatingMatrix(offsets, wanted.items[cells], wanted.values[cells], None, wanted.item_count)
