"""The fits: optimal, chosen on what they should be chosen on, applied as scikit-learn applies them."""

import numpy as np
import pytest
from evaluate.transfer.made import ids, make_set
from sklearn.linear_model import LogisticRegression

from overnight.errors import UserError
from overnight.evaluate.transfer.logistic import fit_chosen, fit_logistic


@pytest.mark.parametrize("C", [0.2, 1.0])
def test_the_l1_fit_meets_the_conditions_of_its_optimum(C: float) -> None:
    made = make_set()
    y, x = ids(made.data.train), made.train.astype(np.float64)
    model = fit_logistic(x, y, 2, C)
    residual = model.predict_proba(x)[:, 1] - y
    gradient = C * residual @ (x - x.mean(axis=0))  # of the loss; that of the penalty is the weight's sign
    weight = model.coef[0]
    assert np.count_nonzero(weight) >= 2
    np.testing.assert_allclose(gradient[weight != 0], -np.sign(weight[weight != 0]), atol=0.02)
    assert np.all(np.abs(gradient[weight == 0]) < 1.02)


def test_a_shift_of_the_features_moves_the_intercept_only() -> None:
    made = make_set()
    y = ids(made.data.train)
    near, far = (fit_logistic(made.train + offset, y, 2, 0.5) for offset in (0.0, 100.0))
    np.testing.assert_allclose(near.coef, far.coef, atol=1e-4)
    np.testing.assert_allclose(
        near.predict_proba(made.test), far.predict_proba(made.test + np.float32(100.0)), atol=1e-3
    )


def test_standardised_fits_do_not_see_the_units_scales() -> None:
    made = make_set()
    y, scale = ids(made.data.train), np.geomspace(1e-3, 1e3, made.train.shape[1])
    plain = fit_logistic(made.train, y, 2, 0.5, standardise=True)
    scaled = fit_logistic(made.train * scale, y, 2, 0.5, standardise=True)
    np.testing.assert_allclose(plain.coef, scaled.coef * scale, atol=1e-4)
    constant = made.train.copy()
    constant[:, 0] = 4.0
    assert np.isfinite(fit_logistic(constant, y, 2, 0.5, standardise=True).coef).all()


def test_two_classes_have_the_probabilities_of_scikit_learn() -> None:
    made = make_set()
    y, x = ids(made.data.train), made.train - made.train.mean(axis=0)
    model = fit_logistic(x.astype(np.float64), y, 2, 0.3, penalty="l2")
    theirs = LogisticRegression(C=0.3, solver="liblinear", random_state=0, max_iter=300).fit(x, y)
    np.testing.assert_allclose(model.predict_proba(made.test), theirs.predict_proba(made.test), atol=1e-4)


def test_several_classes_are_one_against_the_rest() -> None:
    made = make_set(3)
    y = ids(made.data.train)
    model = fit_logistic(made.train, y, 3, 1.0)
    alone = fit_logistic(made.train, (y == 1).astype(np.int64), 2, 1.0)
    np.testing.assert_array_equal(model.coef[1], alone.coef[0])
    probabilities = model.predict_proba(made.test)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    far = model.predict_proba(np.full((1, made.test.shape[1]), -1e5))
    assert np.isfinite(far).all()


def test_balanced_weights_find_the_rare_class() -> None:
    made = make_set()
    y = ids(made.data.train)
    kept = np.flatnonzero((y == 0) | (np.cumsum(y) <= 8))
    x, y, test = made.train[kept], y[kept], ids(made.data.test)
    recall = {
        weight: (fit_logistic(x, y, 2, 0.1, class_weight=weight).predict(made.test)[test == 1] == 1).mean()  # type: ignore[arg-type]
        for weight in ("none", "balanced")
    }
    assert recall["balanced"] > recall["none"] + 0.2


def test_c_is_chosen_on_dev_and_the_smallest_of_equals_wins() -> None:
    made = make_set()
    train, dev = (made.train, ids(made.data.train)), (made.dev, ids(made.data.dev))  # type: ignore[arg-type]
    chosen = fit_chosen(train, dev, 2)
    best = max(chosen.scores.values())
    assert next(C for C, score in chosen.scores.items() if score == best) == chosen.C
    assert chosen.on == "dev"
    np.testing.assert_array_equal(chosen.model.coef, fit_logistic(*train, 2, chosen.C).coef)
    # dev labels turned around: the strongest penalty, which decides least, is now the best
    assert fit_chosen(train, (dev[0], 1 - dev[1]), 2).C < chosen.C


def test_without_dev_c_is_cross_validated(monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_set()
    train = (made.train, ids(made.data.train))
    assert fit_chosen(train, None, 2).on == "train, 5-fold cross-validation"
    few = np.r_[np.flatnonzero(train[1] == 0)[:20], np.flatnonzero(train[1] == 1)[:3]]
    assert "3-fold" in fit_chosen((train[0][few], train[1][few]), None, 2).on
    monkeypatch.setattr("overnight.evaluate.transfer.logistic._CROSS_VALIDATED", 100)
    assert fit_chosen(train, None, 2).on == "a tenth of train"
    with pytest.raises(UserError, match="one training example only"):
        fit_chosen((train[0][few[:-2]], train[1][few[:-2]]), None, 2)
