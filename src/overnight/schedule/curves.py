"""Schedules: pure functions of progress in samples → factor of the peak rate.

Each takes a ``Progress`` and keyword settings in samples, so a schedule keeps its meaning when the batch changes.
With a warm-up of W samples the factor rises linearly to 1, and the decay runs over what is left:
u = (samples - W) / (total - W), clipped to [0, 1].
"""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a run stands before a step.

    Attributes:
        samples: samples seen before this step (skipped steps not counted).
        batch: samples of this step.
        total: samples of the whole run; infinite while unknown.
    """

    samples: float
    batch: float
    total: float


def _warm(progress: Progress, warmup_samples: float) -> float:
    # counted at the end of the step, so that the first step moves
    if warmup_samples <= 0:
        return 1.0
    return min(1.0, (progress.samples + progress.batch) / warmup_samples)


def _decayed(progress: Progress, warmup_samples: float, horizon_samples: float | None) -> float:
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
    return _warm(progress, warmup_samples)


def linear(
    progress: Progress, *, end: float = 0.0, warmup_samples: float = 0, horizon_samples: float | None = None
) -> float:
    """Factor 1 - (1 - end) u.

    Args:
        progress: where the run stands.
        end: factor at the end.
        warmup_samples: W.
        horizon_samples: decay over this many samples whatever the run's length, as the 40 GB paper does above batch
            2048 (100,000 steps).

    >>> linear(Progress(samples=50, batch=10, total=100))
    0.5
    """
    u = _decayed(progress, warmup_samples, horizon_samples)
    return _warm(progress, warmup_samples) * (1.0 - (1.0 - end) * u)


def cosine(
    progress: Progress, *, end: float = 0.0, warmup_samples: float = 0, horizon_samples: float | None = None
) -> float:
    """Factor end + (1 - end) (1 + cos πu) / 2 (Loshchilov & Hutter 2017, eq. 5, one period)."""
    u = _decayed(progress, warmup_samples, horizon_samples)
    return _warm(progress, warmup_samples) * (end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * u)))


def polynomial(
    progress: Progress,
    *,
    power: float = 2.0,
    end: float = 0.0,
    warmup_samples: float = 0,
    horizon_samples: float | None = None,
) -> float:
    """Factor end + (1 - end) (1 - u)^power; power 2 is the LARS paper's."""
    u = _decayed(progress, warmup_samples, horizon_samples)
    return _warm(progress, warmup_samples) * (end + (1.0 - end) * math.pow(1.0 - u, power))
