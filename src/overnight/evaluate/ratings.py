"""RMSE of a recommender on ratings that it was not trained on."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from overnight.data.ratings.batches import gather
from overnight.data.ratings.loading import load_ratings
from overnight.data.ratings.settings import RatingSettings
from overnight.data.ratings.table import RatingMatrix, RatingSplits
from overnight.errors import UserError
from overnight.evaluate.ranking import evaluate_errors
from overnight.evaluate.rating_baselines import damped_biases, global_mean
from overnight.evaluate.recommender import LISTS, by_user, parts_of_error, rankings

Values = npt.NDArray[np.float64]
CALL_USERS = 512
"""Users of one call of the model; the result does not depend on it."""
RESIDUAL_USERS = 256
"""Users whose fixed-point residual is measured."""


@dataclass(frozen=True)
class HeldOutRatings:
    """Errors on held-out ratings.

    Attributes:
        rmse: √ of the mean squared error.
        low, high: its 95 % confidence interval over users (they are what varies, not the ratings of one).
        mae: mean absolute error.
        ratings, users: how many were scored.
        seconds: wall time.
    """

    rmse: float
    low: float
    high: float
    mae: float
    ratings: int
    users: int
    seconds: float


def predictions(
    model: nn.Module, shown: RatingMatrix, wanted: RatingMatrix, autocast: torch.dtype | None = None
) -> Iterator[tuple[npt.NDArray[np.int64], Tensor, Tensor]]:
    """What a model says of all ratings of ``wanted``, many users at a time.

    Args:
        model: a ``RatingAutoencoder``; it is in evaluation mode meanwhile.
        shown: ratings that it sees; rows and columns as in ``wanted``.
        wanted: which are asked for.
        autocast: dtype of ``torch.autocast``.

    Yields:
        Rows of users, where each one's ratings start [B + 1], and the predictions [N], in the order of ``wanted``.
    """
    device, training = next(model.parameters()).device, model.training
    asked = np.flatnonzero(wanted.counts)
    model.eval()
    try:
        for at in range(0, len(asked), CALL_USERS):
            users_B = asked[at : at + CALL_USERS]
            seen, cells = gather(shown, users_B).to(device), gather(wanted, users_B).to(device)
            with torch.no_grad(), torch.autocast(device.type, autocast, enabled=autocast is not None):
                said_N = model(seen.offset_B, seen.item_N, seen.value_N, cells.offset_B, cells.item_N)
            yield users_B, cells.offset_B.cpu(), said_N.double().cpu()
    finally:
        model.train(training)


def evaluate_ratings(
    model: nn.Module,
    shown: RatingMatrix,
    wanted: RatingMatrix,
    *,
    autocast: torch.dtype | None = None,
    keep: list[Values] | None = None,
) -> HeldOutRatings:
    """Errors over all ratings of ``wanted``, each predicted from the same user's ratings in ``shown``.

    Args:
        model, shown, wanted, autocast: as ``predictions`` takes them.
        keep: takes the predictions, some at a time, in the order of ``wanted``.

    Raises:
        UserError: if there is no rating to score.
    """
    began = time.perf_counter()
    if not len(wanted):
        raise UserError("There is no held-out rating to score.", "Hold some out, or name a file of them.")
    squared, counts, absolute = [], [], 0.0
    for users_B, offset_B, said_N in predictions(model, shown, wanted, autocast):
        _, places = wanted.cells(users_B)
        error_N = said_N.numpy() - wanted.values[places].astype(np.float64)
        squared.append(np.add.reduceat(error_N**2, offset_B[:-1].numpy()))
        counts.append(np.diff(offset_B.numpy()))
        absolute += float(np.abs(error_N).sum())
        if keep is not None:
            keep.append(said_N.numpy())
    squared_U, count_U = np.concatenate(squared), np.concatenate(counts)
    rmse, low, high = rmse_interval(squared_U, count_U)
    ratings = int(count_U.sum())
    return HeldOutRatings(rmse, low, high, absolute / ratings, ratings, len(count_U), time.perf_counter() - began)


def rmse_interval(
    squared_U: npt.NDArray[np.float64], count_U: npt.NDArray[np.int64], z: float = 1.96
) -> tuple[float, float, float]:
    """RMSE and its interval over users: that of a ratio of two sums, √ of its ends; NaN for one user.

    >>> [round(end, 3) for end in rmse_interval(np.array([4.0, 4.0, 4.0]), np.array([1, 1, 1]))]
    [2.0, 2.0, 2.0]
    """
    total, count, users = float(squared_U.sum()), float(count_U.sum()), len(count_U)
    mean = total / count
    if users < 2:
        return math.sqrt(mean), math.nan, math.nan
    spread = float(((squared_U - mean * count_U) ** 2).sum()) * users / (users - 1)
    half = z * math.sqrt(spread) / count
    return math.sqrt(mean), math.sqrt(max(0.0, mean - half)), math.sqrt(mean + half)


@torch.no_grad()
def fixed_point_residual(model: Any, shown: RatingMatrix) -> float:
    """‖f(f(x)) - f(x)‖ / √cells over the first users with ratings, in units of the ratings: 0 of an ideal net."""
    device, training = next(model.parameters()).device, model.training
    users_B = np.flatnonzero(shown.counts)[:RESIDUAL_USERS]
    seen = gather(shown, users_B).to(device)
    model.eval()
    try:
        once = model.dense(model.hidden(seen.offset_B, seen.item_N, seen.value_N))
        twice = model.dense(model.hidden_dense(once))
    finally:
        model.train(training)
    return float((twice - once).double().square().mean().sqrt())


def heldout_ratings(
    *,
    model: nn.Module,
    autocast_dtype: torch.dtype | None,
    final: bool,
    corpus: str,
    split: str = "test",
    settings: Any = RatingSettings,
    valid: str = "",
    test: str = "",
) -> dict[str, Any]:
    """RMSE on a split, from the training ratings, as a line of eval.jsonl.

    ``cold`` ratings, of users or items without a training rating, are not among those scored; ``rmse_with_cold`` counts
    them as answered by the training mean. The last evaluation of a run adds errors ``by_activity`` and ``by_time`` and
    the ``ranking`` of items (``overnight.evaluate.recommender``).

    Args:
        model, autocast_dtype, final: the trainer's.
        corpus, split, settings, valid, test: what is held out (see ``rating_batches``).
    """
    wished = settings()
    splits = load_ratings(corpus, wished, valid=valid, test=test)
    return record_of(model, splits, split, wished.by, autocast=autocast_dtype, parts=final)[0]


def record_of(
    model: nn.Module,
    splits: RatingSplits,
    split: str,
    by: str,
    *,
    autocast: torch.dtype | None = None,
    parts: bool = False,
    k: Sequence[int] = LISTS,
    relevant: float | None = None,
) -> tuple[dict[str, Any], HeldOutRatings]:
    """What ``heldout_ratings`` writes, and the errors in it.

    Args:
        model: a ``RatingAutoencoder``.
        splits: rows are users, or items with ``by`` item.
        split: which is scored.
        by: what a row is.
        autocast: dtype of ``torch.autocast``.
        parts: whether errors by activity and time and the ranking of items are added.
        k, relevant: of the ranking (see ``rankings``).
    """
    said: list[Values] = []
    found = evaluate_ratings(model, splits.train, splits.split(split), autocast=autocast, keep=said if parts else None)
    dropped = splits.dropped.get(split, {"ratings": 0, "squared_error": 0.0})
    squared = found.rmse**2 * found.ratings + dropped["squared_error"]
    record: dict[str, Any] = {
        "split": split,
        "rmse": found.rmse,
        "low": found.low,
        "high": found.high,
        "mae": found.mae,
        "ratings": found.ratings,
        "users": found.users,
        "cold": dropped["ratings"],
        "rmse_with_cold": math.sqrt(squared / (found.ratings + dropped["ratings"])),
        "fixed_point_residual": fixed_point_residual(model, splits.train),
    }
    if parts and math.isfinite(found.rmse):
        biases = damped_biases(by_user(splits.train, by))
        record |= parts_of_error(splits, split, by, np.concatenate(said), biases)
        record["ranking"] = rankings(model, splits, split, by, k=k, relevant=relevant, biases=biases)
    return record, found


def damped_item_biases(
    *, corpus: str, settings: Any = RatingSettings, valid: str = "", test: str = ""
) -> npt.NDArray[np.float64]:
    """b_i that a net with biases begins with (see ``start_of_biases``).

    Args:
        corpus, settings, valid, test: what is trained on, as ``rating_batches`` takes them.
    """
    return start_of_biases(load_ratings(corpus, settings(), valid=valid, test=test).train)


def start_of_biases(train: RatingMatrix) -> npt.NDArray[np.float64]:
    """b_i of damped biases, by column, of training ratings whose rows are what the net's are.

    A step of Adam moves a bias by the rate at most, so from 0 the few thousand steps of a small set do not bring it
    to where it belongs. Rows are damped by 10 ratings, as those of the net.
    """
    return damped_biases(train, 10.0, 5.0).item_bias


def rating_baselines(
    *, corpus: str, split: str = "test", settings: Any = RatingSettings, valid: str = "", test: str = ""
) -> list[dict[str, Any]]:
    """RMSE and MAE of the training mean, and of damped biases of users and items.

    Args:
        corpus, split, settings, valid, test: as ``heldout_ratings`` takes them.
    """
    wished = settings()
    return errors_of_baselines(load_ratings(corpus, wished, valid=valid, test=test), split, wished.by)


def errors_of_baselines(splits: RatingSplits, split: str, by: str) -> list[dict[str, Any]]:
    """``rating_baselines`` of ratings that are loaded."""
    train, wanted = by_user(splits.train, by), by_user(splits.split(split), by)
    known = {"the mean of all ratings": global_mean(train).predict, "damped biases": damped_biases(train).predict}
    found = {name: evaluate_errors(predict, wanted) for name, predict in known.items()}
    return [{"name": name, "rmse": it.rmse, "mae": it.mae} for name, it in found.items()]
