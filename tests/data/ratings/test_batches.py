"""Batches of users: every one once an epoch, the same by any cut, hidden ratings and dense items by (seed, step)."""

import numpy as np
import pytest
import torch
from oracles.ratings import triples

from overnight.data.ratings import RatingSettings, RatingTable, split_table
from overnight.data.ratings.batches import RatingBatches, gather, uniform
from overnight.data.ratings.table import RatingMatrix
from overnight.errors import UserError

TRAIN = split_table(RatingTable.from_arrays(*zip(*triples(), strict=True)), RatingSettings(test=0.0)).train


def test_every_user_once_an_epoch() -> None:
    batches = RatingBatches(TRAIN, 16, seed=1)
    assert batches.steps_per_epoch == 2.5
    users = np.concatenate([batches.users(step) for step in range(5)])
    assert sorted(users[:40]) == sorted(users[40:]) == list(range(40))
    assert users[:40].tolist() != users[40:].tolist()
    seen = sum(batches.at(step).ratings for step in range(5))
    assert seen == 2 * len(TRAIN)


def test_a_share_is_the_part_of_the_whole() -> None:
    batches = RatingBatches(TRAIN, 16, seed=1, hide=0.4, dense_items=6)
    for step in (0, 2, 7):
        whole = batches.at(step)
        parts = [batches.at(step, first, 4) for first in (0, 4, 8, 12)]
        for name in ("user_B", "item_N", "value_N", "hidden_N"):
            assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))
        assert all(torch.equal(part.dense_M, whole.dense_M) for part in parts)  # type: ignore[arg-type]
        assert sum(part.hidden for part in parts) == whole.hidden == int(whole.hidden_N.sum())  # type: ignore[union-attr]


def test_what_is_hidden_is_drawn_anew_each_epoch() -> None:
    batches = RatingBatches(TRAIN, 40, seed=1, hide=0.25)
    epochs = []
    for step in range(3):
        batch = batches.at(step)
        order = torch.argsort(batch.user_B.repeat_interleave(batch.offset_B.diff()), stable=True)
        epochs.append(batch.hidden_N[order])  # type: ignore[index]
    assert not torch.equal(epochs[0], epochs[1])
    assert float(torch.cat(epochs).double().mean()) == pytest.approx(0.25, abs=0.04)


def test_drawn_numbers_are_uniform() -> None:
    drawn = uniform(np.arange(100_000), 5)
    counts = np.bincount((drawn * 10).astype(int), minlength=10)
    assert abs(counts - 10_000).max() < 400
    assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.02


def test_repetitions_keep_users_and_items() -> None:
    batches = RatingBatches(TRAIN, 8, seed=2, repetitions=2, dense_items=5)
    assert batches.steps_per_epoch == 15
    first = [batches.at(step) for step in range(3)]
    assert [batch.repetition for batch in first] == [0, 1, 2]
    assert all(torch.equal(batch.user_B, first[0].user_B) for batch in first)
    assert all(torch.equal(batch.dense_M, first[0].dense_M) for batch in first)  # type: ignore[arg-type]
    assert not torch.equal(batches.at(3).user_B, first[0].user_B)
    assert not torch.equal(batches.at(3).dense_M, first[0].dense_M)  # type: ignore[arg-type]


def test_users_without_ratings_are_left_out() -> None:
    matrix = RatingMatrix(np.array([0, 0, 2, 2, 3]), np.array([0, 1, 1], np.int32), np.ones(3, np.float32), None, 2)
    assert sorted(RatingBatches(matrix, 2).users(0)) == [1, 3]
    assert gather(matrix, np.array([0, 3])).offset_B.tolist() == [0, 0, 1]
    for settings, said in (
        ({"batch": 3}, "2 have ratings. Take 1 to 2"),
        ({"batch": 0}, "A batch of 0 users"),
        ({"batch": 1, "hide": 1.0}, "hide=1.0"),
        ({"batch": 1, "dense_items": 3}, "dense_items=3 of 2"),
    ):
        with pytest.raises(UserError, match=said):
            RatingBatches(matrix, **settings)  # type: ignore[arg-type]
