"""Epochs to a quality as a function of batch, E(B) = Emin (1 + B/Bc): fitted and predicted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from overnight.scaling.intervals import Array, t_quantile

_GRID = 1500
_HUBER = 2.0  # 99 % as efficient as least squares where the errors are normal


def epochs_ratio(critical_batch: float, global_batch_size: float, k: float) -> float:
    """E(k·B) / E(B) = (1 + k·B/Bc) / (1 + B/Bc): samples at batch k·B for the quality that B reaches.

    Args:
        critical_batch: Bc, in samples; infinite where returns never end.
        global_batch_size: B, in samples.
        k: new batch / old batch.

    Raises:
        ValueError: for numbers that are not above 0.

    >>> round(epochs_ratio(9000, 2048, 8), 3)
    2.298
    """
    for name, value in (("critical_batch", critical_batch), ("global_batch_size", global_batch_size), ("k", k)):
        if not value > 0:
            raise ValueError(f"{name} must be a number above 0, not {value!r}.")
    return (1.0 + k * global_batch_size / critical_batch) / (1.0 + global_batch_size / critical_batch)


@dataclass(frozen=True)
class Convergence:
    """E(B) = Emin (1 + B/Bc), and with it the steps S(B) = Smin (1 + Bc/B).

    Attributes:
        least_epochs: Emin: epochs at a very small batch.
        critical_batch: Bc, in samples: there a run takes twice the epochs of Emin and twice the steps of Smin.
        low, high: 95 % interval of Bc; from 0 to infinity with two batches, through which the law goes exactly.
        relative_error: of one measurement, as the fit leaves it (standard deviation).
    """

    least_epochs: float
    critical_batch: float
    low: float
    high: float
    relative_error: float

    def epochs(self, global_batch_size: float) -> float:
        """E(B)."""
        return self.least_epochs * (1.0 + global_batch_size / self.critical_batch)

    def steps(self, global_batch_size: float, samples_per_epoch: float) -> float:
        """S(B) = E(B) · samples per epoch / B."""
        return self.epochs(global_batch_size) * samples_per_epoch / global_batch_size


def fit_convergence(batches: Sequence[float], epochs: Sequence[float], *, evaluated_every: float = 0.0) -> Convergence:
    """Fit Emin and Bc to epochs measured at several batches. McCandlish et al. 2018 (arXiv 1812.06162), eq. 2.11.

    Errors are relative, and a single odd row (another tuner's) counts less (Huber's weights). The interval is that of
    the profile over Bc: all values at which the fit is not significantly worse.

    Args:
        batches: B of each measurement, in samples; at least two different ones.
        epochs: to the target, each the mean of repeated runs or one run.
        evaluated_every: epochs from one evaluation to the next. A run that is seen to have arrived at E did so after
            E − every, so half of it is taken off, and the fit trusts no row to better than every / √12.

    Raises:
        ValueError: for measurements that cannot be or do not tell two batches apart.

    >>> law = fit_convergence([256, 1024, 4096, 16384], [10.2, 10.9, 14.1, 26.0])
    >>> round(law.least_epochs, 1), round(law.critical_batch, -2)
    (9.9, 10100.0)
    """
    b, e = np.asarray(batches, dtype=np.float64), np.asarray(epochs, dtype=np.float64) - evaluated_every / 2
    if b.ndim != 1 or b.shape != e.shape or len(set(b.tolist())) < 2:
        raise ValueError("A fit of epochs over batch needs measurements at two different batches at least.")
    if not (np.isfinite(b).all() and np.isfinite(e).all() and (b > 0).all() and (e > 0).all() and evaluated_every >= 0):
        raise ValueError("Batches and epochs must be numbers above 0, and epochs more than half of evaluated_every.")
    floor = np.square(evaluated_every / math.sqrt(12.0) / e)  # variance of log e by coarse evaluation
    grid = np.geomspace(b.min() / 100.0, b.max() * 1000.0, _GRID)
    weights = np.ones_like(b)
    small_sample = math.sqrt(len(b) / max(len(b) - 2, 1))  # two of the residuals' freedoms went into the fit
    for _ in range(20):
        losses, levels = _profile(grid, b, e, weights)
        best = int(losses.argmin())
        residuals = np.log(e) - levels[best] - np.log1p(b / grid[best])
        spread = np.sqrt(np.square(1.4826 * small_sample * np.median(np.abs(residuals))) + floor)
        weights = np.minimum(1.0, _HUBER * spread / np.maximum(np.abs(residuals), 1e-12))
    critical, least = _between(grid, losses, b, e, weights)
    residuals = np.log(e) - math.log(least) - np.log1p(b / critical)
    freedom = len(b) - 2
    if freedom == 0:
        return Convergence(least, critical, 0.0, math.inf, 0.0)
    variance = max(float((weights * np.square(residuals)).sum()) / freedom, float(floor.mean()))
    bound = float((weights * np.square(residuals)).sum()) + variance * t_quantile(freedom) ** 2
    below, above = grid[(losses > bound) & (grid < critical)], grid[(losses > bound) & (grid > critical)]
    low = float(below.max()) if len(below) else 0.0
    high = float(above.min()) if len(above) else math.inf
    return Convergence(least, critical, low, high, math.sqrt(variance))


def _profile(grid: Array, b: Array, e: Array, weights: Array) -> tuple[Array, Array]:
    """Weighted squares of relative errors at each Bc, with the log Emin that is best there."""
    errors = np.log(e) - np.log1p(b / grid[:, None])
    levels = (errors * weights).sum(1) / weights.sum()
    return (weights * np.square(errors - levels[:, None])).sum(1), levels


def _between(grid: Array, losses: Array, b: Array, e: Array, weights: Array) -> tuple[float, float]:
    """The best Bc between the points of the grid, and its Emin."""
    best = int(losses.argmin())
    fine = np.geomspace(grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)], _GRID)
    losses, levels = _profile(fine, b, e, weights)
    chosen = int(losses.argmin())
    return float(fine[chosen]), float(np.exp(levels[chosen]))
