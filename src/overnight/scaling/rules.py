"""From a tuned baseline at batch B₀ to another batch k·B₀: pure rules for the rate."""

import math


def linear(lr: float, k: float) -> float:
    """lr · k (Krizhevsky 2014; Goyal et al. 2017).

    >>> linear(0.1, 4)
    0.4
    """
    return lr * k


def sqrt(lr: float, k: float) -> float:
    """lr · √k: keeps the variance of an update (Krizhevsky 2014; Hoffer et al. 2017); the usual choice for Adam.

    >>> sqrt(0.1, 4)
    0.2
    """
    return lr * math.sqrt(k)


def capped_linear(lr: float, k: float, *, cap: float = 3e-3) -> float:
    """min(lr · k, cap): the 40 GB paper's rule, with lr = 5e-4 at batch 128.

    Puri et al. 2018 (arXiv 1808.01371): linear scaling does not hold at all batch sizes, hence the cap.

    >>> capped_linear(5e-4, 2), capped_linear(5e-4, 256)
    (0.001, 0.003)
    """
    return min(lr * k, cap)
