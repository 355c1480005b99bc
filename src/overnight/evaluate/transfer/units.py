"""Single units: how well one tells the classes apart, with its sign, and how many are needed.

Shape suffixes: N texts, H units, K classes.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

_BLOCK = 128


@dataclass(frozen=True)
class UnitRule:
    """A classifier that looks at one unit.

    Two classes: the second where sign · (value − threshold) > 0. More: the class with the nearest mean; the sign is 0.

    Attributes:
        means: the unit's mean over the texts of each class.
        accuracy: on the texts it was fitted on.
    """

    unit: int
    sign: int
    threshold: float | None
    means: tuple[float, ...]
    accuracy: float

    def predict(self, features_NH: Any) -> Ids:
        """The class of each text, [N]."""
        value = np.asarray(features_NH[:, self.unit], dtype=np.float64)
        if self.threshold is not None:
            return (self.sign * (value - self.threshold) > 0).astype(np.int64)
        return np.asarray(np.abs(value[:, None] - np.array(self.means)).argmin(axis=1), dtype=np.int64)


def rank_units(features_NH: Any, labels_N: Ids, classes: int, *, balanced: bool = False) -> list[UnitRule]:
    """A rule for every unit, the most accurate first; of two classes, with the best of all thresholds.

    With `balanced` every class weighs the same, and accuracy is the mean of the classes' own.

    >>> rules = rank_units(np.array([[0.0, 5.0], [1.0, 3.0], [0.0, -1.0], [1.0, -2.0]]), np.array([0, 0, 1, 1]), 2)
    >>> rules[0].unit, rules[0].sign, rules[0].threshold, rules[0].accuracy
    (1, -1, 1.0, 1.0)
    """
    means_KH = np.stack([np.asarray(features_NH[labels_N == k]).mean(axis=0, dtype=np.float64) for k in range(classes)])
    counts = np.bincount(labels_N, minlength=classes)
    weight_N = (1 / (classes * counts) if balanced else np.full(classes, 1 / len(labels_N)))[labels_N]
    rules = []
    for start in range(0, features_NH.shape[1], _BLOCK):
        values = np.asarray(features_NH[:, start : start + _BLOCK], dtype=np.float64)
        if classes == 2:
            found = _thresholds(values, labels_N, weight_N)
        else:
            near = np.abs(values[:, :, None] - means_KH[:, start : start + _BLOCK].T).argmin(axis=2)
            found = [(0, None, accuracy) for accuracy in weight_N @ (near == labels_N[:, None])]
        for offset, (sign, threshold, accuracy) in enumerate(found):
            means = tuple(float(mean) for mean in means_KH[:, start + offset])
            rules.append(UnitRule(start + offset, sign, threshold, means, float(accuracy)))
    return sorted(rules, key=lambda rule: -rule.accuracy)


def _thresholds(values_NB: Floats, labels_N: Ids, weight_N: Floats) -> list[tuple[int, float | None, float]]:
    """(sign, threshold, accuracy) of each column: the cut between two neighbouring values that errs least."""
    order = values_NB.argsort(axis=0, kind="stable")
    ordered = np.take_along_axis(values_NB, order, axis=0)
    signed = np.where(labels_N == 0, weight_N, -weight_N)
    # where high values mean the second class: what is right below the cut, and above it
    right = np.cumsum(signed[order], axis=0)[:-1] + weight_N[labels_N == 1].sum()
    right = np.where(ordered[1:] > ordered[:-1], right, 0.5)  # equal values cannot be cut apart
    found: list[tuple[int, float | None, float]] = []
    for column in range(values_NB.shape[1]):
        high, low = int(right[:, column].argmax()), int(right[:, column].argmin())
        sign, cut = (1, high) if right[high, column] >= 1 - right[low, column] else (-1, low)
        share = float(max(right[cut, column], 1 - right[cut, column]))
        if ordered[cut, column] == ordered[cut + 1, column]:  # a constant unit: everything is the first class
            found.append((1, float(ordered[-1, column]), float(weight_N[labels_N == 0].sum())))
        else:
            found.append((sign, float((ordered[cut, column] + ordered[cut + 1, column]) / 2), share))
    return found


def histogram_of(values_N: Any, labels_N: Ids, classes: int, bins: int = 40) -> dict[str, Any]:
    """Counts by class over bins of equal width; the outermost hold all beyond the middle 99.6 % of values.

    Returns:
        {"edges": [bins + 1], "counts": [K][bins]}, plain numbers.
    """
    values = np.asarray(values_N, dtype=np.float64)
    low, high = (float(v) for v in np.quantile(values, [0.002, 0.998]))
    if high <= low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    inside = np.clip(values, low, high)
    counts = [np.histogram(inside[labels_N == k], edges)[0].tolist() for k in range(classes)]
    return {"edges": edges.tolist(), "counts": counts}
