"""Schedules that decay over the whole run: pure functions of progress in samples → factor of the peak rate.

Each takes a ``Progress`` and keyword settings in samples, so a schedule keeps its meaning when the batch changes.
With a warm-up of W samples the factor rises linearly to 1, and the decay runs over what is left:
u = (samples - W) / (total - W), clipped to [0, 1].
"""

import math

from overnight.schedule.progress import Progress, above_zero, fraction
from overnight.schedule.warmup import ramp

__all__ = ["Progress", "constant", "cosine", "linear", "polynomial"]


def _decayed(progress: Progress, warmup_samples: float, horizon_samples: float | None) -> float:
    if horizon_samples is not None:
        above_zero(horizon_samples=horizon_samples)
    total = progress.total if horizon_samples is None else horizon_samples
    if not math.isfinite(total) or progress.samples <= warmup_samples:
        return 0.0
    span = total - warmup_samples
    return min(1.0, (progress.samples - warmup_samples) / span) if span > 0 else 1.0


def constant(progress: Progress, *, warmup_samples: float = 0) -> float:
    """Factor 1 after the warm-up.

    >>> constant(Progress(samples=0, batch=10, total=100), warmup_samples=20)
    0.5
    """
    return ramp(progress, warmup_samples)


def linear(
    progress: Progress, *, end: float = 0.0, warmup_samples: float = 0, horizon_samples: float | None = None
) -> float:
    """Factor 1 - (1 - end) u.

    Args:
        progress: where the run stands.
        end: factor at the end, 0 to 1.
        warmup_samples: W.
        horizon_samples: decay over this many samples whatever the run's length, as the 40 GB paper does above batch
            2048 (100,000 steps).

    >>> linear(Progress(samples=50, batch=10, total=100))
    0.5
    """
    fraction(end=end)
    rise = ramp(progress, warmup_samples)
    return rise * (1.0 - (1.0 - end) * _decayed(progress, warmup_samples, horizon_samples))


def cosine(
    progress: Progress, *, end: float = 0.0, warmup_samples: float = 0, horizon_samples: float | None = None
) -> float:
    """Factor end + (1 - end) (1 + cos πu) / 2 (Loshchilov & Hutter 2017, eq. 5, one period).

    >>> cosine(Progress(samples=50, batch=10, total=100), end=0.5)
    0.75
    """
    fraction(end=end)
    rise = ramp(progress, warmup_samples)
    u = _decayed(progress, warmup_samples, horizon_samples)
    return rise * (end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * u)))


def polynomial(
    progress: Progress,
    *,
    power: float = 2.0,
    end: float = 0.0,
    warmup_samples: float = 0,
    horizon_samples: float | None = None,
) -> float:
    """Factor end + (1 - end) (1 - u)^power; power 2 is the LARS paper's (You et al. 2017, arXiv 1708.03888).

    >>> polynomial(Progress(samples=50, batch=10, total=100))
    0.25
    """
    fraction(end=end)
    above_zero(power=power)
    rise = ramp(progress, warmup_samples)
    u = _decayed(progress, warmup_samples, horizon_samples)
    return rise * (end + (1.0 - end) * math.pow(1.0 - u, power))
