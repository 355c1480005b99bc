"""Ranking metrics against loops over single users and items."""

import math

import numpy as np
import pytest
import torch

from overnight.data.ratings.table import RatingMatrix
from overnight.errors import UserError
from overnight.evaluate import ranking
from overnight.evaluate.ranking import ModelScores, evaluate_errors, evaluate_ranking, top
from overnight.evaluate.ratings import predictions
from overnight.models.autoencoder import RatingAutoencoder


def matrix(taken: np.ndarray, values: np.ndarray) -> RatingMatrix:
    offsets = np.concatenate([[0], taken.sum(1).cumsum()])
    return RatingMatrix(offsets, np.nonzero(taken)[1].astype(np.int32), values[taken], None, taken.shape[1])


def pair(users: int, items: int, seed: int = 0) -> tuple[RatingMatrix, RatingMatrix, np.ndarray]:
    """Shown and held-out ratings, some of which are also shown, and scores with ties."""
    draw = np.random.default_rng(seed)
    kind, values = draw.random((users, items)), draw.integers(1, 6, (users, items)).astype(np.float32)
    kind[0] = 0.99
    return matrix(kind < 0.4, values), matrix((kind > 0.35) & (kind < 0.6), values), draw.integers(0, 5, (users, items))


def by_hand(
    scores: np.ndarray, shown: RatingMatrix, wanted: RatingMatrix, k: int, relevant: float | None
) -> tuple[float, float, int]:
    recalls, gains = [], []
    for user in range(len(scores)):
        seen = shown.items[shown.offsets[user] : shown.offsets[user + 1]].tolist()
        span = range(wanted.offsets[user], wanted.offsets[user + 1])
        items = {int(wanted.items[at]) for at in span if relevant is None or wanted.values[at] >= relevant} - set(seen)
        if not items:
            continue
        listed = sorted((i for i in range(scores.shape[1]) if i not in seen), key=lambda i: (-scores[user, i], i))[:k]
        places = [place for place, item in enumerate(listed) if item in items]
        most = min(k, len(items))
        recalls.append(len(places) / most)
        gains.append(sum(1 / math.log2(p + 2) for p in places) / sum(1 / math.log2(p + 2) for p in range(most)))
    return float(np.mean(recalls)), float(np.mean(gains)), len(recalls)


@pytest.mark.parametrize("relevant", [None, 4.0])
@pytest.mark.parametrize("cells", [1, 60, 1 << 20])
def test_recall_and_ndcg_are_those_of_a_loop(
    relevant: float | None, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "CELLS", cells)
    shown, wanted, scores = pair(31, 17)
    lengths = (1, 3, 17, 40)
    found = evaluate_ranking(lambda _, users: scores[users], shown, wanted, lengths, relevant=relevant)
    for k in lengths:
        recall, ndcg, users = by_hand(scores, shown, wanted, k, relevant)
        assert (found.recall[k], found.ndcg[k]) == pytest.approx((recall, ndcg))
        assert found.users == users


def test_a_perfect_list_has_one_and_the_worst_has_none() -> None:
    shown, wanted, _ = pair(20, 60, seed=3)
    taken = np.zeros((20, 60))
    for user in range(20):
        taken[user, wanted.items[wanted.offsets[user] : wanted.offsets[user + 1]]] = 1
    best = evaluate_ranking(lambda _, users: taken[users], shown, wanted, (2, 10))
    assert best.recall == {2: 1.0, 10: 1.0}
    assert best.ndcg == pytest.approx({2: 1.0, 10: 1.0})
    worst = evaluate_ranking(lambda _, users: -taken[users], shown, wanted, (2,))
    assert (worst.recall, worst.ndcg) == ({2: 0.0}, {2: 0.0})


def test_top_is_a_stable_sort() -> None:
    scores = np.random.default_rng(0).integers(0, 4, (50, 13)).astype(float)
    scores[:, 2] = -np.inf
    for k in (1, 5, 13):
        assert top(scores, k).tolist() == np.argsort(-scores, axis=1, kind="stable")[:, :k].tolist()
    assert top(np.zeros((0, 4)), 2).shape == (0, 2)


def test_errors_are_those_of_all_ratings_at_once() -> None:
    _, wanted, scores = pair(31, 17)
    users = np.repeat(np.arange(31), wanted.counts)
    rest = scores[users, wanted.items] - wanted.values
    found = evaluate_errors(lambda users, items: scores[users, items].astype(np.float32), wanted)
    assert found.rmse == pytest.approx(math.sqrt((rest**2).mean()))
    assert found.mae == pytest.approx(np.abs(rest).mean())
    assert found.ratings == len(wanted)


@pytest.mark.parametrize("by", ["user", "item"])
def test_a_models_scores_are_its_predictions_of_all_items(by: str) -> None:
    torch.manual_seed(0)
    shown, _, _ = pair(9, 7)
    everything = matrix(np.ones((9, 7), bool), np.zeros((9, 7), np.float32))
    rows, asked = (shown, everything) if by == "user" else (shown.transposed(), everything.transposed())
    model = RatingAutoencoder(rows.item_count, (5, 3), biases=True, mean=2.0).train()
    said = torch.cat([said for _, _, said in predictions(model, rows, asked)]).view(rows.user_count, rows.item_count)
    expected = said.numpy() if by == "user" else said.numpy().T
    scores = ModelScores(model, None if by == "user" else rows)
    np.testing.assert_allclose(scores(shown, np.array([4, 0, 8])), expected[[4, 0, 8]], atol=1e-5)
    assert model.training


def test_what_cannot_be_is_refused() -> None:
    shown, wanted, scores = pair(6, 5)
    empty = matrix(np.zeros((6, 5), bool), np.zeros((6, 5), np.float32))
    with pytest.raises(UserError, match="no held-out rating"):
        evaluate_errors(lambda users, _: scores[users, 0], empty)
    with pytest.raises(UserError, match="no finite number"):
        evaluate_errors(lambda users, _: np.full(len(users), np.nan), wanted)
    with pytest.raises(UserError, match="Lists of"):
        evaluate_ranking(lambda _, users: scores[users], shown, wanted, (0, 10))
    with pytest.raises(UserError, match="No user"):
        evaluate_ranking(lambda _, users: scores[users], shown, wanted, (3,), relevant=9.0)
    with pytest.raises(UserError, match="NaN"):
        evaluate_ranking(lambda _, users: np.full((len(users), 5), np.nan), shown, wanted, (3,))
