"""Logistic regression on features: fitted by scikit-learn's liblinear, applied without it.

Shape suffixes: N texts, H units, K classes.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from overnight.errors import UserError
from overnight.evaluate.transfer.scores import accuracy_of, balanced_accuracy_of

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Penalty = Literal["l1", "l2"]
ClassWeight = Literal["none", "balanced"]

GRID = tuple(2.0**power for power in range(-8, 1))
"""The inverse strengths of the penalty that Radford et al. 2017 choose from (arXiv 1704.01444; their released code)."""

FOLDS = 5
_CROSS_VALIDATED = 10_000
_ITERATIONS = 300


@dataclass(frozen=True)
class Logistic:
    """Logistic regression: coef [1, H] for two classes, else [K, H], one class against the rest.

    Attributes:
        coef: weights of raw features.
        intercept: [1] or [K].
        converged: whether the fit ended before its last iteration.
    """

    coef: Floats
    intercept: Floats
    converged: bool = True

    def predict_proba(self, features_NH: Any) -> Floats:
        """Probabilities [N, K]: σ(w·x + b) of the second of two classes; of several, σ of each, made to sum to 1."""
        score = np.asarray(features_NH @ self.coef.T) + self.intercept
        each = 0.5 * (1.0 + np.tanh(0.5 * score))  # σ without overflow
        if len(self.intercept) == 1:
            return np.concatenate([1.0 - each, each], axis=1)
        # far from every class each σ may round to 0
        return np.asarray((each + 1e-300) / (each + 1e-300).sum(axis=1, keepdims=True))

    def predict(self, features_NH: Any) -> Ids:
        """The likeliest class of each text, [N]."""
        return np.asarray(self.predict_proba(features_NH).argmax(axis=1), dtype=np.int64)


def fit_logistic(
    features_NH: Any,
    labels_N: Ids,
    classes: int,
    C: float,
    *,
    penalty: Penalty = "l1",
    class_weight: ClassWeight = "none",
    standardise: bool = False,
    seed: int = 0,
) -> Logistic:
    """Minimise penalty(w) + C · Σ log-loss with liblinear.

    Dense features are centred first. That moves the intercept only, which liblinear penalises as if it were a weight:
    around the mean it is small, so the penalty hardly acts, and the fit takes a tenth of the time.

    Args:
        features_NH: dense or SciPy-sparse.
        labels_N: class ids from 0; each of `classes` occurs.
        C: inverse strength of the penalty.
        class_weight: "balanced" weighs a class by N / (K · its count).
        standardise: divide by the deviation, too (dense only); the result takes raw features all the same.
        seed: of liblinear's order of coordinates.

    Raises:
        UserError: scikit-learn is not installed.
    """
    mean, scale = np.zeros(1), np.ones(1)
    if isinstance(features_NH, np.ndarray):
        mean = features_NH.mean(axis=0, dtype=np.float64)
        features_NH = features_NH - mean
        if standardise:
            scale = features_NH.std(axis=0)
            scale = np.where(scale > 1e-12, scale, 1.0)
            features_NH /= scale
    rows, intercepts, converged = [], [], True
    for positive in (1,) if classes == 2 else range(classes):
        model = _liblinear(C, penalty, class_weight, seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.fit(features_NH, labels_N == positive)
        converged &= not any("converge" in str(warning.message) for warning in caught)
        rows.append(model.coef_[0] / scale)
        intercepts.append(model.intercept_[0] - rows[-1] @ np.broadcast_to(mean, rows[-1].shape))
    return Logistic(np.stack(rows), np.array(intercepts), converged)


@dataclass(frozen=True)
class Chosen:
    """A fit, the C it was given, and the score of each C that was tried.

    Attributes:
        on: where the scores are from, in words.
    """

    model: Logistic
    C: float
    scores: dict[float, float]
    on: str


def fit_chosen(
    train: tuple[Any, Ids],
    dev: tuple[Any, Ids] | None,
    classes: int,
    *,
    grid: Sequence[float] = GRID,
    penalty: Penalty = "l1",
    class_weight: ClassWeight = "none",
    standardise: bool = False,
    seed: int = 0,
) -> Chosen:
    """Fit with the C that does best on `dev`, the smallest of equals; on `train` only.

    Without `dev`, cross-validated on `train` (5 folds, fewer where a class is smaller); over 10,000 examples, on a
    tenth of them held out. The score is accuracy, with balanced weights balanced accuracy.
    """
    features, labels = train
    score = balanced_accuracy_of if class_weight == "balanced" else accuracy_of

    def fitted(x: Any, y: Ids, C: float) -> Logistic:
        return fit_logistic(
            x, y, classes, C, penalty=penalty, class_weight=class_weight, standardise=standardise, seed=seed
        )

    if dev is not None:
        models = {C: fitted(features, labels, C) for C in grid}
        scores = {C: score(dev[1], model.predict(dev[0])) for C, model in models.items()}
        best = _best(scores)
        return Chosen(models[best], best, scores, "dev")
    if len(grid) == 1:
        return Chosen(fitted(features, labels, grid[0]), grid[0], {}, "given")
    folds, on = _folds(labels, seed)
    found = {C: [] for C in grid}  # type: dict[float, list[float]]
    for inside, outside in folds:
        for C in grid:
            model = fitted(features[inside], labels[inside], C)
            found[C].append(score(labels[outside], model.predict(features[outside])))
    scores = {C: float(np.mean(values)) for C, values in found.items()}
    best = _best(scores)
    return Chosen(fitted(features, labels, best), best, scores, on)


def _best(scores: dict[float, float]) -> float:
    return max(sorted(scores), key=lambda C: scores[C])


def _folds(labels: Ids, seed: int) -> tuple[list[tuple[Ids, Ids]], str]:
    from sklearn.model_selection import StratifiedKFold, StratifiedShuffleSplit

    blank = np.zeros(len(labels))
    if len(labels) > _CROSS_VALIDATED:
        splitter = StratifiedShuffleSplit(1, test_size=0.1, random_state=seed)
        return list(splitter.split(blank, labels)), "a tenth of train"
    smallest = int(np.bincount(labels).min())
    if smallest < 2:
        raise UserError(
            "A class has one training example only, too few for cross-validation.",
            "Add examples of it, or name a dev split with --dev.",
        )
    count = min(FOLDS, smallest)
    splitter = StratifiedKFold(count, shuffle=True, random_state=seed)
    return list(splitter.split(blank, labels)), f"train, {count}-fold cross-validation"


def _liblinear(C: float, penalty: Penalty, class_weight: ClassWeight, seed: int) -> Any:
    try:
        import sklearn
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise UserError(
            "Training a classifier needs scikit-learn.", "Install it with: pip install 'overnight[eval]'."
        ) from error
    # scikit-learn 1.8 renamed the argument and warns of the old name
    new = tuple(int(part) for part in sklearn.__version__.split(".")[:2]) >= (1, 8)
    kind: dict[str, Any] = {"l1_ratio": 1 if penalty == "l1" else 0} if new else {"penalty": penalty}
    weight = None if class_weight == "none" else "balanced"
    return LogisticRegression(
        C=C, solver="liblinear", class_weight=weight, random_state=seed, max_iter=_ITERATIONS, **kind
    )
