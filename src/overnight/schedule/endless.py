"""Schedules that do not depend on how long the run is.

Positions (milestones, start) are samples since the run began, warm-up included: a longer warm-up, such as LEGW's at a
larger batch, leaves them where they are. What has no position begins where the warm-up ends.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence

from overnight.schedule.progress import Progress, above_zero, fraction, rising
from overnight.schedule.warmup import ramp


def cosine_restarts(
    progress: Progress,
    *,
    period_samples: float,
    multiplier: float = 1.0,
    end: float = 0.0,
    warmup_samples: float = 0,
) -> float:
    """Factor end + (1 - end) (1 + cos(π T_cur / T_i)) / 2, and back to 1 at the end of each period T_i.

    SGDR: Loshchilov & Hutter 2017 (arXiv 1608.03983), eq. 5; each period is ``multiplier`` times the one before.

    Args:
        progress: where the run stands.
        period_samples: T_0, the first period.
        multiplier: at least 1.
        end: factor at the end of each period, 0 to 1.
        warmup_samples: before the first period.

    >>> [cosine_restarts(Progress(s, 10, 100), period_samples=20, multiplier=2) for s in (0, 10, 20, 40, 60)]
    [1.0, 0.5, 1.0, 0.5, 1.0]
    """
    above_zero(period_samples=period_samples, multiplier=multiplier)
    if multiplier < 1:
        raise ValueError(f"multiplier must be at least 1, not {multiplier!r}.")
    fraction(end=end)
    rise = ramp(progress, warmup_samples)
    position, period = max(0.0, progress.samples - warmup_samples), period_samples
    if multiplier == 1:
        position %= period
    while position >= period:
        position -= period
        period *= multiplier
    return rise * (end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * position / period)))


def multistep(
    progress: Progress, *, milestones: Sequence[float], gamma: float = 0.1, warmup_samples: float = 0
) -> float:
    """Factor gamma^n after n milestones.

    Args:
        progress: where the run stands.
        milestones: rising positions in samples; the step that begins there is the first at the lower rate.
        gamma: factor at each milestone, above 0, at most 1.
        warmup_samples: of the rise at the beginning.

    >>> [multistep(Progress(s, 10, 100), milestones=(30, 60), gamma=0.5) for s in (0, 20, 30, 60)]
    [1.0, 1.0, 0.5, 0.25]
    """
    rising("milestones", milestones)
    above_zero(gamma=gamma)
    fraction(gamma=gamma)
    return ramp(progress, warmup_samples) * math.pow(gamma, bisect_right(milestones, progress.samples))


def exponential(
    progress: Progress,
    *,
    gamma: float,
    every_samples: float,
    start_samples: float | None = None,
    staircase: bool = False,
    warmup_samples: float = 0,
) -> float:
    """Factor gamma^((samples - start) / every).

    A factor each so many samples, because recipes are published so ("÷ 1.15 an epoch", "× 0.94 every two epochs"); a
    half-life is gamma = 0.5.

    Args:
        progress: where the run stands.
        gamma: above 0, at most 1.
        every_samples: samples over which the rate falls by gamma.
        start_samples: position where the decay begins; the end of the warm-up unless given.
        staircase: fall all at once at the end of each ``every_samples``.
        warmup_samples: of the rise at the beginning.

    >>> [exponential(Progress(s, 10, 100), gamma=0.5, every_samples=20) for s in (0, 20, 40)]
    [1.0, 0.5, 0.25]
    """
    above_zero(gamma=gamma, every_samples=every_samples)
    fraction(gamma=gamma)
    rise = ramp(progress, warmup_samples)
    start = warmup_samples if start_samples is None else start_samples
    if not start >= warmup_samples:
        raise ValueError(f"start_samples={start!r} must not come before the warm-up of {warmup_samples!r} ends.")
    exponent = max(0.0, progress.samples - start) / every_samples
    return rise * math.pow(gamma, math.floor(exponent) if staircase else exponent)


def inverse_sqrt(progress: Progress, *, timescale_samples: float | None = None, warmup_samples: float = 0) -> float:
    """Factor √(T / (T + samples - W)) after a warm-up of W samples; √(W / samples) with T = W.

    Vaswani et al. 2017 (arXiv 1706.03762), eq. 3, whose rate peaks at the end of the warm-up.

    Args:
        progress: where the run stands.
        timescale_samples: T; W unless given.
        warmup_samples: W.

    >>> [inverse_sqrt(Progress(s, 10, 1000), warmup_samples=20) for s in (0, 10, 20, 80)]
    [0.5, 1.0, 1.0, 0.5]
    """
    rise = ramp(progress, warmup_samples)
    timescale = warmup_samples if timescale_samples is None else timescale_samples
    if timescale_samples is None and warmup_samples == 0:
        raise ValueError("inverse_sqrt needs warmup_samples or timescale_samples: where it begins to fall.")
    above_zero(timescale_samples=timescale)
    return rise * math.sqrt(timescale / (timescale + max(0.0, progress.samples - warmup_samples)))
