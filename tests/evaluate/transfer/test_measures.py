"""Scores and units against scikit-learn and brute force."""

import numpy as np
import pytest
from evaluate.transfer.made import ids, make_set
from sklearn import metrics

from overnight.evaluate.transfer import scores
from overnight.evaluate.transfer.few_shot import few_shot_curve, repeats_of
from overnight.evaluate.transfer.heat import choose_texts
from overnight.evaluate.transfer.units import histogram_of, rank_units

DRAW = np.random.default_rng(3)
TRUE, GIVEN = DRAW.integers(0, 3, 200), DRAW.integers(0, 3, 200)
PROBABILITIES = DRAW.dirichlet([1, 1, 1], 200)


def test_scores_are_those_of_scikit_learn() -> None:
    assert scores.accuracy_of(TRUE, GIVEN) == pytest.approx(metrics.accuracy_score(TRUE, GIVEN))
    assert scores.balanced_accuracy_of(TRUE, GIVEN) == pytest.approx(metrics.balanced_accuracy_score(TRUE, GIVEN))
    assert scores.macro_f1_of(TRUE, GIVEN, 3) == pytest.approx(metrics.f1_score(TRUE, GIVEN, average="macro"))
    np.testing.assert_array_equal(scores.confusion_of(TRUE, GIVEN, 3), metrics.confusion_matrix(TRUE, GIVEN))
    found = scores.calibration_of(TRUE, PROBABILITIES)
    assert found.log_loss == pytest.approx(metrics.log_loss(TRUE, PROBABILITIES))
    two = np.stack([1 - PROBABILITIES[:, 0], PROBABILITIES[:, 0]], axis=1)
    label = (TRUE == 0).astype(int)
    assert scores.calibration_of(label, two).brier == pytest.approx(metrics.brier_score_loss(label, two[:, 1]))


def test_calibration_bins_hold_every_text_once() -> None:
    found = scores.calibration_of(TRUE, PROBABILITIES)
    confidence, right = PROBABILITIES.max(axis=1), PROBABILITIES.argmax(axis=1) == TRUE
    assert sum(part.count for part in found.bins) == 200
    error = 0.0
    for part in found.bins:
        inside = (confidence >= part.low) & (confidence < part.high)
        assert (part.count, part.accuracy) == (inside.sum(), pytest.approx(right[inside].mean()))
        error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert found.ece == pytest.approx(error)
    assert scores.calibration_of(np.array([1]), np.array([[0.0, 1.0]])).ece == 0


def brute(values: np.ndarray, labels: np.ndarray, weight: np.ndarray) -> float:
    cuts = np.r_[values.min() - 1, (np.sort(values)[1:] + np.sort(values)[:-1]) / 2]
    right = [weight[(values > cut) == labels].sum() for cut in cuts]
    return max(*right, *(weight.sum() - r for r in right))


@pytest.mark.parametrize("balanced", [False, True])
def test_every_threshold_is_the_best_there_is(balanced: bool) -> None:
    draw = np.random.default_rng(0)
    values = draw.integers(0, 6, (50, 9)).astype(np.float64)  # many equal values
    labels = (draw.random(50) < 0.3).astype(np.int64)
    values[:, 0] = -labels
    counts = np.bincount(labels)
    weight = (0.5 / counts if balanced else np.full(2, 1 / 50))[labels]
    rules = rank_units(values, labels, 2, balanced=balanced)
    assert [rule.accuracy for rule in rules] == sorted((rule.accuracy for rule in rules), reverse=True)
    assert (rules[0].unit, rules[0].sign, rules[0].threshold) == (0, -1, -0.5)
    for rule in rules:
        got = weight[rule.predict(values) == labels].sum()
        assert rule.accuracy == pytest.approx(got)
        # a threshold beyond all values is not tried: it looks at nothing
        assert rule.accuracy == pytest.approx(brute(values[:, rule.unit], labels, weight)) or rule.accuracy < max(
            weight[labels == 0].sum(), weight[labels == 1].sum()
        )


def test_a_constant_unit_says_the_first_class() -> None:
    rule = rank_units(np.zeros((4, 1)), np.array([0, 0, 0, 1]), 2)[0]
    assert rule.predict(np.zeros((2, 1))).tolist() == [0, 0]
    assert rule.accuracy == 0.75


def test_several_classes_go_to_the_nearest_mean() -> None:
    made = make_set(3)
    rule = rank_units(made.train, ids(made.data.train), 3)[0]
    assert (rule.unit, rule.sign, rule.threshold) == (7, 0, None)
    assert rule.means[0] > rule.means[1] > rule.means[2]
    assert rule.accuracy == pytest.approx((rule.predict(made.train) == ids(made.data.train)).mean())
    assert (rule.predict(made.test) == ids(made.data.test)).mean() > 0.6


def test_histograms_count_every_text() -> None:
    values = np.r_[DRAW.normal(size=500), [1e6, -1e6]]
    labels = np.r_[DRAW.integers(0, 2, 500), [0, 1]]
    found = histogram_of(values, labels, 2, bins=10)
    assert [sum(row) for row in found["counts"]] == np.bincount(labels).tolist()
    assert len(found["edges"]) == 11
    assert found["edges"][-1] < 1e5
    assert sum(map(sum, histogram_of(np.ones(5), np.zeros(5, dtype=int), 2)["counts"])) == 5


def test_few_shot_samples_keep_the_classes_and_repeat() -> None:
    labels = np.r_[np.zeros(90, dtype=int), np.ones(10, dtype=int)]
    seen: list[np.ndarray] = []

    def learn(chosen: np.ndarray) -> np.ndarray:
        seen.append(chosen)
        return np.zeros(4, dtype=int)

    found = few_shot_curve(labels, np.array([0, 0, 0, 1]), 2, {"always 0": learn}, seed=1)
    assert [record["labels"] for record in found] == [10, 30]
    assert [np.bincount(labels[chosen]).tolist() for chosen in seen] == [[9, 1]] * 10 + [[27, 3]] * 10
    assert all(len(set(chosen.tolist())) == len(chosen) for chosen in seen)
    assert len({tuple(chosen) for chosen in seen}) == 20
    assert found[0]["repeats"] == repeats_of(10)
    assert (found[0]["mean"], found[0]["low"], found[0]["high"]) == (0.75, 0.75, 0.75)
    first = [chosen.tolist() for chosen in seen]
    seen.clear()
    few_shot_curve(labels, np.array([0, 0, 0, 1]), 2, {"always 0": learn}, seed=1)
    assert [chosen.tolist() for chosen in seen] == first


def test_texts_worth_showing_are_extremes_and_the_worst_mistake() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    given = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.05, 0.95], [0.4, 0.6], [0.2, 0.8], [0.9, 0.1], [0.6, 0.4]])
    values = np.array([3.0, 1.0, 2.0, 9.0, 5.0, -5.0, 0.0, 0.0])
    assert choose_texts(values, labels, given, [100] * 8) == [0, 1, 3, 4, 5, 6]
    assert choose_texts(values, labels, given, [9999, 100, 9999, 100, 100, 100, 100, 100]) == [1, 3, 4, 5, 6]
