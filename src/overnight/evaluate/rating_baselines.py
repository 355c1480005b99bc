"""What a recommender has to beat: the mean of all ratings, biases of users and items, and EASE.

Shape suffixes: N ratings, B users, n items.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from overnight.data.ratings.table import RatingMatrix
from overnight.errors import UserError

Indices = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.float64]
ROUNDS = 50
"""Of alternating least squares at most; it stops when no bias moves by more than ``SETTLED``."""
SETTLED = 1e-6
EASE_ITEMS = 25_000
"""Items of EASE at most: it inverts a matrix of items × items (5 GB of float64, twice)."""


@dataclass(frozen=True)
class GlobalMean:
    """Answers every question with the mean of the training ratings."""

    mean: float
    item_count: int

    def predict(self, users: Indices, items: Indices) -> Floats:
        """Predictions [N] of pairs; an index of -1 is an unknown user or item."""
        _check(items, self.item_count, "item")
        return np.full(len(items), self.mean)

    def scores(self, shown: RatingMatrix, users: Indices) -> Floats:
        """[B, n] of these rows of ``shown``, all equal."""
        return np.full((len(users), self.item_count), self.mean)


@dataclass(frozen=True)
class DampedBiases:
    """Predicts μ + b_u + b_i.

    Attributes:
        mean: μ.
        user_bias, item_bias: float64, by row and column of the training ratings.
        user_damping: ratings that a user's bias is pulled towards 0 by.
    """

    mean: float
    user_bias: Floats
    item_bias: Floats
    user_damping: float

    def predict(self, users: Indices, items: Indices) -> Floats:
        """Predictions [N] of pairs; an index of -1 is an unknown user or item, whose bias is 0."""
        _check(users, len(self.user_bias), "user")
        _check(items, len(self.item_bias), "item")
        return self.mean + _of(self.user_bias, users) + _of(self.item_bias, items)

    def fold_in(self, items: Indices, values: npt.NDArray[Any]) -> float:
        """b_u of a new user from their ratings; those of unknown items (-1) count with their bias of 0."""
        _check(items, len(self.item_bias), "item")
        if not len(items):
            return 0.0
        rest_N = np.asarray(values, dtype=np.float64) - self.mean - _of(self.item_bias, items)
        return float(rest_N.sum() / (len(rest_N) + self.user_damping))

    def scores(self, shown: RatingMatrix, users: Indices) -> Floats:
        """[B, n] of these rows of ``shown``, whose biases are those of the ratings there: they may be new users."""
        bias_B = np.array([self.fold_in(shown.items[a:b], shown.values[a:b]) for a, b in _spans(shown, users)])
        return self.mean + bias_B.reshape(-1, 1) + self.item_bias


@dataclass(frozen=True)
class Ease:
    """Scores items by the items that a user has: s = x B, x of 0 and 1. They rank items; they are no ratings.

    Attributes:
        weight: B, float64 [n, n], diagonal 0.
        relevant: the least rating that x counts; None counts all.
    """

    weight: Floats
    relevant: float | None

    def scores(self, shown: RatingMatrix, users: Indices) -> Floats:
        """[B, n] of these rows of ``shown``, which may be new users."""
        return _chosen(shown, users, self.relevant) @ self.weight


def global_mean(train: RatingMatrix) -> GlobalMean:
    """The mean of all ratings.

    >>> train = RatingMatrix(np.array([0, 2]), np.array([0, 1]), np.array([1, 4], np.float32), None, 3)
    >>> global_mean(train).predict(np.array([0, -1]), np.array([2, 2])).tolist()
    [2.5, 2.5]
    """
    _check_rated(train)
    return GlobalMean(train.mean, train.item_count)


def damped_biases(train: RatingMatrix, user_damping: float = 5.0, item_damping: float = 5.0) -> DampedBiases:
    """Biases of users and items: the least of Σ (r - μ - b_u - b_i)² + λ_u Σ b_u² + λ_i Σ b_i², μ the training mean.

    Alternately b_i = Σ (r - μ - b_u) / (λ_i + count) and b_u alike, until they stand still.

    Args:
        train: rows are users, columns items.
        user_damping, item_damping: λ_u, λ_i, in ratings.

    Raises:
        UserError: for a damping below 0, or no ratings.

    >>> train = RatingMatrix(np.array([0, 2, 4]), np.array([0, 1, 0, 1]), np.array([1, 2, 3, 4], np.float32), None, 2)
    >>> damped_biases(train, 0, 0).predict(np.array([0, 1]), np.array([0, 1])).round(3).tolist()
    [1.0, 4.0]
    """
    _check_rated(train)
    if not (user_damping >= 0 and item_damping >= 0):
        raise UserError(
            f"Dampings of {user_damping} and {item_damping} ratings cannot be.", "Take at least 0 for both."
        )
    user_weight = np.maximum(train.counts + user_damping, 1e-12)
    item_count = np.zeros(train.item_count)
    for _, item_N, _ in _blocks(train):
        item_count += np.bincount(item_N, minlength=train.item_count)
    item_weight = np.maximum(item_count + item_damping, 1e-12)
    user_bias = np.zeros(train.user_count)
    for _ in range(ROUNDS):
        item_sum, user_sum = np.zeros(train.item_count), np.zeros(train.user_count)
        for user_N, item_N, rest_N in _blocks(train):
            item_sum += np.bincount(item_N, rest_N - user_bias[user_N], train.item_count)
        item_bias = item_sum / item_weight
        for user_N, item_N, rest_N in _blocks(train):
            first, last = int(user_N[0]), int(user_N[-1]) + 1
            user_sum[first:last] = np.bincount(user_N - first, rest_N - item_bias[item_N], last - first)
        before, user_bias = user_bias, user_sum / user_weight
        if np.abs(user_bias - before).max() < SETTLED:
            break
    return DampedBiases(train.mean, user_bias, item_bias, float(user_damping))


def _blocks(train: RatingMatrix) -> Iterator[tuple[Indices, Indices, Floats]]:
    """Users, items and r - μ, of some users at a time: ratings that are mapped from disk need not fit into memory."""
    for first, last in train.blocks():
        cells = slice(int(train.offsets[first]), int(train.offsets[last]))
        if cells.start < cells.stop:
            user_N = np.repeat(np.arange(first, last), train.counts[first:last])
            yield user_N, np.asarray(train.items[cells]), train.values[cells].astype(np.float64) - train.mean


def ease(train: RatingMatrix, l2: float = 500.0, *, relevant: float | None = None) -> Ease:
    """EASE, a linear autoencoder in closed form (Steck 2019, arXiv 1905.03375).

    P = (XᵀX + λI)⁻¹, B = I - P diag(1 / diag P): the least of ‖X - XB‖² + λ‖B‖² with a diagonal of 0. X says which
    items a user has.

    Args:
        train: rows are users, columns items.
        l2: λ; it should grow with the number of users.
        relevant: count ratings of at least this; None counts all.

    Raises:
        UserError: for an l2 that is not above 0, no ratings, or more than 25,000 items.

    >>> train = RatingMatrix(np.array([0, 2, 4]), np.array([0, 1, 0, 1]), np.ones(4, np.float32), None, 2)
    >>> ease(train, 1.0).scores(train, np.array([0])).round(3).tolist()
    [[0.667, 0.667]]
    """
    _check_rated(train)
    if not l2 > 0:
        raise UserError(f"EASE with l2={l2} cannot be.", "Take it above 0.")
    if train.item_count > EASE_ITEMS:
        raise UserError(
            f"EASE of {train.item_count:,} items inverts a matrix of {train.item_count**2 * 8 / 1e9:.0f} GB.",
            f"Leave it out, or take at most {EASE_ITEMS:,} items.",
        )
    gram = np.zeros((train.item_count, train.item_count))
    for first, last in train.blocks():
        chosen = _chosen(train, np.arange(first, last), relevant)
        gram += chosen.T @ chosen
    gram[np.diag_indices_from(gram)] += l2
    weight = np.asarray(np.linalg.inv(gram), dtype=np.float64)
    weight /= -np.diagonal(weight).copy()
    np.fill_diagonal(weight, 0.0)
    return Ease(weight, relevant)


def _chosen(matrix: RatingMatrix, users: Indices, relevant: float | None) -> Floats:
    """1 where a user has an item, else 0: [B, n]."""
    chosen = np.zeros((len(users), matrix.item_count))
    for row, (a, b) in enumerate(_spans(matrix, users)):
        items = matrix.items[a:b]
        chosen[row, items if relevant is None else items[matrix.values[a:b] >= relevant]] = 1.0
    return chosen


def _spans(matrix: RatingMatrix, users: Indices) -> list[tuple[int, int]]:
    _check(users, matrix.user_count, "user", unknown=False)
    return list(zip(matrix.offsets[users].tolist(), matrix.offsets[np.asarray(users) + 1].tolist(), strict=True))


def _of(bias: Floats, index: Indices) -> Floats:
    return np.where(np.asarray(index) < 0, 0.0, bias[index])


def _check(index: Indices, count: int, kind: str, unknown: bool = True) -> None:
    low = -1 if unknown else 0
    if len(index) and not low <= int(np.min(index)) <= int(np.max(index)) < count:
        bad = int(np.max(index)) if np.max(index) >= count else int(np.min(index))
        raise UserError(f"There is no {kind} {bad}; training has 0 to {count - 1}.", "Give -1 for unknown ones.")


def _check_rated(train: RatingMatrix) -> None:
    if not len(train):
        raise UserError("There are no training ratings.", "Give some.")
