"""Baselines of ratings against dense least squares, matrix inversion by columns and plain loops."""

import numpy as np
import pytest

from overnight.data.ratings.table import RatingMatrix
from overnight.errors import UserError
from overnight.evaluate.rating_baselines import EASE_ITEMS, damped_biases, ease, global_mean


def ratings(users: int, items: int, share: float = 0.4, seed: int = 0) -> RatingMatrix:
    draw = np.random.default_rng(seed)
    taken = draw.random((users, items)) < share
    values = draw.normal(size=(users, items)).astype(np.float32)
    offsets = np.concatenate([[0], taken.sum(1).cumsum()])
    return RatingMatrix(offsets, np.nonzero(taken)[1].astype(np.int32), values[taken], None, items)


def test_global_mean_answers_everything_alike() -> None:
    train = ratings(7, 5)
    found = global_mean(train)
    assert found.mean == pytest.approx(train.values.astype(np.float64).mean(), abs=1e-7)
    assert found.predict(np.array([0, -1]), np.array([-1, 4])).tolist() == [found.mean] * 2
    assert found.scores(train, np.array([3, 1])).tolist() == [[found.mean] * 5] * 2


@pytest.mark.parametrize(("user_damping", "item_damping"), [(5.0, 5.0), (0.5, 20.0), (3.0, 0.0)])
def test_damped_biases_are_the_ridge_solution(user_damping: float, item_damping: float) -> None:
    train = ratings(23, 9)
    user_N = np.repeat(np.arange(23), train.counts)
    design = np.zeros((len(train), 32))
    design[np.arange(len(train)), user_N] = 1
    design[np.arange(len(train)), 23 + train.items] = 1
    ridge = np.diag([user_damping] * 23 + [item_damping] * 9)
    solution = np.linalg.solve(design.T @ design + ridge, design.T @ (train.values - train.mean))
    found = damped_biases(train, user_damping, item_damping)
    np.testing.assert_allclose(found.user_bias, solution[:23], atol=2e-5)
    np.testing.assert_allclose(found.item_bias, solution[23:], atol=2e-5)


def test_damped_biases_of_unknown_and_new_users() -> None:
    train = ratings(6, 4)
    found = damped_biases(train, 2.0, 1.0)
    pairs = np.array([-1, -1, 2]), np.array([-1, 3, -1])
    expected = [found.mean, found.mean + found.item_bias[3], found.mean + found.user_bias[2]]
    assert found.predict(*pairs).tolist() == pytest.approx(expected)
    known = found.scores(train, np.arange(6))
    everything = np.repeat(np.arange(6), 4), np.tile(np.arange(4), 6)
    np.testing.assert_allclose(known, found.predict(*everything).reshape(6, 4), atol=1e-5)
    assert found.fold_in(np.array([], dtype=np.int64), np.array([])) == 0.0
    assert found.fold_in(np.array([-1]), np.array([found.mean + 3.0])) == pytest.approx(1.0)


@pytest.mark.parametrize("relevant", [None, 0.2])
def test_ease_is_the_least_squares_of_each_item_from_the_others(relevant: float | None) -> None:
    train, l2 = ratings(40, 6), 2.5
    dense = np.zeros((40, 6))
    for user in range(40):
        for at in range(train.offsets[user], train.offsets[user + 1]):
            if relevant is None or train.values[at] >= relevant:
                dense[user, train.items[at]] = 1
    found = ease(train, l2, relevant=relevant)
    for item in range(6):
        others = [other for other in range(6) if other != item]
        known = dense[:, others]
        weight = np.linalg.solve(known.T @ known + l2 * np.eye(5), known.T @ dense[:, item])
        np.testing.assert_allclose(found.weight[others, item], weight, atol=1e-10)
        assert found.weight[item, item] == 0
    np.testing.assert_allclose(found.scores(train, np.array([5, 0])), (dense @ found.weight)[[5, 0]])


def test_what_cannot_be_is_refused() -> None:
    train, empty = ratings(3, 3, 0.9), RatingMatrix(np.array([0, 0]), np.array([]), np.array([]), None, 2)
    for make in (global_mean, damped_biases, ease):
        with pytest.raises(UserError, match="no training ratings"):
            make(empty)
    with pytest.raises(UserError, match="Dampings of -1"):
        damped_biases(train, -1.0)
    with pytest.raises(UserError, match="l2=0"):
        ease(train, 0)
    many = RatingMatrix(np.array([0, 1]), np.array([0]), np.ones(1, np.float32), None, EASE_ITEMS + 1)
    with pytest.raises(UserError, match="25,001 items"):
        ease(many)
    with pytest.raises(UserError, match="no item 3; training has 0 to 2"):
        damped_biases(train).predict(np.array([0]), np.array([3]))
    with pytest.raises(UserError, match="no user -2"):
        damped_biases(train).predict(np.array([-2]), np.array([0]))
    with pytest.raises(UserError, match="no user -1"):
        ease(train).scores(train, np.array([-1]))
