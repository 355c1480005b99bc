"""How good predictions are: accuracy with its interval, by class, confusion, calibration.

Shape suffixes: N texts, K classes.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]


def accuracy_of(labels_N: Ids, predicted_N: Ids) -> float:
    """The share of right predictions."""
    return float(np.mean(labels_N == predicted_N))


def balanced_accuracy_of(labels_N: Ids, predicted_N: Ids) -> float:
    """The mean over the classes that occur of the share that is predicted rightly (recall)."""
    right = labels_N == predicted_N
    return float(np.mean([right[labels_N == label].mean() for label in np.unique(labels_N)]))


def macro_f1_of(labels_N: Ids, predicted_N: Ids, classes: int) -> float:
    """The mean over all classes of F₁ = 2·right / (true + predicted); a class that does not occur at all is left out.

    >>> round(macro_f1_of(np.array([0, 0, 1]), np.array([0, 1, 1]), 3), 3)
    0.667
    """
    table = confusion_of(labels_N, predicted_N, classes)
    occurs = table.sum(axis=0) + table.sum(axis=1)
    return float(np.mean([2 * table[k, k] / occurs[k] for k in range(classes) if occurs[k]]))


def confusion_of(labels_N: Ids, predicted_N: Ids, classes: int) -> Ids:
    """Counts [K true, K predicted]."""
    flat = np.bincount(labels_N * classes + predicted_N, minlength=classes * classes)
    return np.asarray(flat.reshape(classes, classes), dtype=np.int64)


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` independent trials (Wilson 1927).

    >>> [round(end, 4) for end in wilson_interval(0.9, 100)]
    [0.8256, 0.9448]
    """
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return middle - half, middle + half


@dataclass(frozen=True)
class Bin:
    """Texts whose predicted class has a probability between `low` and `high`."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How far probabilities can be taken at their word.

    Attributes:
        bins: those that are not empty, of equal width.
        ece: Σ count/N · |accuracy − confidence|, the expected calibration error (Guo et al. 2017).
        brier: mean of Σ_k (p_k − y_k)², for two classes half of it: (p − y)².
        log_loss: mean of −ln p(true class), p at least 1e-12; nats.
    """

    bins: tuple[Bin, ...]
    ece: float
    brier: float
    log_loss: float


def calibration_of(labels_N: Ids, probabilities_NK: Floats, bins: int = 10) -> Calibration:
    """Calibration of the predicted class's probability, which lies between 1/K and 1.

    >>> found = calibration_of(np.array([1, 1, 1, 0]), np.array([[0.25, 0.75]] * 4))
    >>> found.ece, found.brier, [b.count for b in found.bins]
    (0.0, 0.1875, [4])
    """
    count, classes = probabilities_NK.shape
    confidence = probabilities_NK.max(axis=1)
    right = probabilities_NK.argmax(axis=1) == labels_N
    edges = np.linspace(1 / classes, 1, bins + 1)
    place = np.clip(np.digitize(confidence, edges) - 1, 0, bins - 1)
    found = []
    for index in range(bins):
        inside = place == index
        if inside.any():
            means = float(confidence[inside].mean()), float(right[inside].mean())
            found.append(Bin(float(edges[index]), float(edges[index + 1]), int(inside.sum()), *means))
    true = np.zeros_like(probabilities_NK)
    true[np.arange(count), labels_N] = 1
    squares = ((probabilities_NK - true) ** 2).sum(axis=1).mean() / (2 if classes == 2 else 1)
    surprise = -np.log(np.maximum(probabilities_NK[np.arange(count), labels_N], 1e-12)).mean()
    ece = sum(b.count / count * abs(b.accuracy - b.confidence) for b in found)
    return Calibration(tuple(found), float(ece), float(squares), float(surprise))
