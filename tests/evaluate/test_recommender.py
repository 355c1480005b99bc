"""A recommender's final record: parts of its error and rankings by their definitions, whatever a row is."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from oracles.ratings import triples

from overnight.data.ratings import RatingSettings, RatingSplits, RatingTable, split_table
from overnight.data.ratings.sequences import NO_TIME
from overnight.data.ratings.table import RatingMatrix
from overnight.evaluate import recommender as module
from overnight.evaluate.rating_baselines import damped_biases
from overnight.evaluate.ratings import errors_of_baselines, evaluate_ratings, record_of
from overnight.evaluate.recommender import by_activity, by_time, rankings
from overnight.models.autoencoder import RatingAutoencoder

SETTINGS = RatingSettings(test=0.25)
TABLE = RatingTable.from_arrays(*zip(*triples(50, 30), strict=True))


def made(by: Any) -> tuple[RatingSplits, RatingAutoencoder]:
    splits = split_table(TABLE, replace(SETTINGS, by=by))
    torch.manual_seed(0)
    net = RatingAutoencoder(len(splits.items), (8,), biases=True, mean=splits.train.mean, normalized=True)
    with torch.no_grad():
        net.item_bias.normal_()  # type: ignore[union-attr]
    return splits, net.eval()


def cells(splits: RatingSplits, split: str, by: str) -> list[tuple[int, int, float, int]]:
    """User, item, rating and time, in the order of the matrix."""
    matrix = splits.split(split)
    rows = np.repeat(np.arange(matrix.user_count), matrix.counts)
    pairs = zip(rows, matrix.items, strict=True) if by == "user" else zip(matrix.items, rows, strict=True)
    return [
        (int(u), int(i), float(v), int(t)) for (u, i), v, t in zip(pairs, matrix.values, matrix.timestamps, strict=True)
    ]  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["user", "item"])
def test_parts_of_the_error(by: str) -> None:
    splits, net = made(by)
    record, errors = record_of(net, splits, "test", by, parts=True)
    assert record["rmse"] == errors.rmse == evaluate_ratings(net, splits.train, splits.test).rmse
    rated = Counter(user for user, *_ in cells(splits, "train", by))
    tested = cells(splits, "test", by)
    said: list[Any] = []
    evaluate_ratings(net, splits.train, splits.test, keep=said)
    squared = (np.concatenate(said) - [value for *_, value, _ in tested]) ** 2
    biases = damped_biases(splits.train if by == "user" else splits.train.transposed())
    others = biases.predict(np.array([c[0] for c in tested]), np.array([c[1] for c in tested]))
    assert {(part["low"], part["high"]) for part in record["by_activity"]} <= {(1, 10), (11, 20), (21, 50)}
    assert len(record["by_activity"]) > 1
    for part in record["by_activity"]:
        own = [place for place, cell in enumerate(tested) if part["low"] <= rated[cell[0]] <= part["high"]]
        assert (part["ratings"], part["users"]) == (len(own), len({tested[place][0] for place in own}))
        assert part["rmse"] == pytest.approx(np.sqrt(squared[own].mean()))
        rest = [others[place] - tested[place][2] for place in own]
        assert part["biases_rmse"] == pytest.approx(np.sqrt(np.square(rest).mean()))
    assert sum(part["ratings"] for part in record["by_time"]) == len(tested)
    for part in record["by_time"]:
        own = [place for place, cell in enumerate(tested) if part["low"] <= cell[3] < part["high"]]
        assert part["rmse"] == pytest.approx(np.sqrt(squared[own].mean()))
    assert not {"by_activity", "ranking"} & set(record_of(net, splits, "test", by)[0])


def test_without_times_and_where_some_are_missing() -> None:
    squared = {"rmse": np.array([1.0, 4.0, 9.0])}
    assert by_time(None, squared) == []
    assert by_time(np.full(3, NO_TIME), squared) == []
    found = by_time(np.array([NO_TIME, 7, 7]), squared)
    assert [(part["ratings"], part["rmse"]) for part in found] == [(2, pytest.approx(np.sqrt(6.5)))]
    assert [(part["low"], part["high"]) for part in by_activity(np.array([1, 10, 250]), np.arange(3), squared)] == [
        (1, 10), (201, 500)
    ]  # fmt: skip


@pytest.mark.parametrize("by", ["user", "item"])
@pytest.mark.parametrize("relevant", [None, 1.0])
def test_rankings(by: str, relevant: float | None) -> None:
    """Recall and NDCG of the model's lists, counted by hand; EASE and the most rated beside."""
    splits, net = made(by)
    found = rankings(net, splits, "test", by, k=(3, 8), relevant=relevant)
    assert [one["name"] for one in found["of"]] == ["this model", "EASE", "damped biases", "the most rated items"]
    train, tested = cells(splits, "train", by), cells(splits, "test", by)
    users, items = sorted({c[0] for c in train}), sorted({c[1] for c in train})
    x = np.full((len(users), len(items)), np.nan)
    for user, item, value, _ in train:
        x[user, item] = value
    rows = splits.train
    state = net.hidden(
        *(torch.from_numpy(np.asarray(a)) for a in (rows.offsets, rows.items.astype(np.int64), rows.values))
    )
    dense = net.dense(state).detach().numpy()
    dense = dense if by == "user" else dense.T
    popular = np.bincount([c[1] for c in train], minlength=len(items))
    for name, scores in (("this model", dense), ("the most rated items", np.tile(popular, (len(users), 1)))):
        recalls, gains, count = np.zeros(2), np.zeros(2), 0
        for user in users:
            wanted = {c[1] for c in tested if c[0] == user and (relevant is None or c[2] >= relevant)}
            if not wanted:
                continue
            count += 1
            listed = [item for item in np.argsort(-scores[user], kind="stable") if np.isnan(x[user, item])]
            for place, k in enumerate((3, 8)):
                hits = [item in wanted for item in listed[:k]]
                recalls[place] += sum(hits) / min(k, len(wanted))
                ideal = sum(1 / np.log2(2 + at) for at in range(min(k, len(wanted))))
                gains[place] += sum(hit / np.log2(2 + at) for at, hit in enumerate(hits)) / ideal
        own = next(one for one in found["of"] if one["name"] == name)
        assert found["users"] == count
        np.testing.assert_allclose(own["recall"], recalls / count)
        np.testing.assert_allclose(own["ndcg"], gains / count)


def test_many_users_and_many_items(monkeypatch: pytest.MonkeyPatch) -> None:
    splits, net = made("user")
    some = rankings(net, splits, "test", "user", most=10 * len(splits.items))
    assert some["users"] == 10
    monkeypatch.setattr(module, "EASE_ITEMS", 5)
    without = rankings(net, splits, "test", "user")
    assert "EASE" not in [one["name"] for one in without["of"]]
    assert without["left_out"] == "EASE is left out: it inverts a matrix of 30 × 30 items."


@pytest.mark.parametrize("by", ["user", "item"])
def test_baselines_do_not_depend_on_what_a_row_is(by: str) -> None:
    splits = made(by)[0]
    mean, biases = errors_of_baselines(splits, "test", by)
    values = splits.test.values
    assert mean["rmse"] == pytest.approx(np.sqrt(np.mean((values - splits.train.mean) ** 2)), rel=1e-6)
    assert biases == pytest.approx({**errors_of_baselines(made("user")[0], "test", "user")[1]})


def test_biases_in_parts_are_those_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    train = made("user")[0].train
    whole, blocks = damped_biases(train), RatingMatrix.blocks
    monkeypatch.setattr(RatingMatrix, "blocks", lambda matrix: blocks(matrix, 13))
    assert len(list(train.blocks())) > 10
    parts = damped_biases(train)
    np.testing.assert_allclose(parts.user_bias, whole.user_bias, atol=1e-12)
    np.testing.assert_allclose(parts.item_bias, whole.item_bias, atol=1e-12)
