"""Gradual warm-up: around any schedule, and again after a jump in batch size or sequence length."""

from overnight.schedule.progress import Progress, Schedule, at_least_zero


def ramp(progress: Progress, warmup_samples: float, at_samples: float = 0.0) -> float:
    """min(1, (samples - at + batch) / warmup): what every warm-up multiplies its schedule by; 1 before ``at_samples``.

    >>> [ramp(Progress(samples, batch=10, total=100), 40) for samples in (0, 10, 30, 90)]
    [0.25, 0.5, 1.0, 1.0]
    """
    at_least_zero(warmup_samples=warmup_samples, at_samples=at_samples)
    if warmup_samples == 0 or progress.samples < at_samples:
        return 1.0
    # counted at the end of the step, so that the first step moves
    return min(1.0, (progress.samples - at_samples + progress.batch) / warmup_samples)


def warmup(progress: Progress, *, schedule: Schedule, warmup_samples: float) -> float:
    """A linear rise to the peak, and then the schedule, which sees a run that begins where the warm-up ends.

    The curves of this package have a ``warmup_samples`` of their own; this is for any other function of progress.
    Goyal et al. 2017 (arXiv 1706.02677), section 2.2.

    Args:
        progress: where the run stands.
        schedule: (Progress) → factor. Positions in it, such as milestones, count from the end of the warm-up.
        warmup_samples: length of the rise.

    >>> from functools import partial
    >>> from overnight.schedule import multistep
    >>> drop = partial(multistep, milestones=(50,))
    >>> [warmup(Progress(samples, 10, 100), schedule=drop, warmup_samples=20) for samples in (0, 10, 60, 70)]
    [0.5, 1.0, 1.0, 0.1]
    """
    factor = ramp(progress, warmup_samples)
    left = Progress(
        max(0.0, progress.samples - warmup_samples), progress.batch, max(0.0, progress.total - warmup_samples)
    )
    return factor * schedule(left)


def rewarm(progress: Progress, *, schedule: Schedule, at_samples: float, warmup_samples: float) -> float:
    """The schedule, whose rate rises from 0 once more from ``at_samples`` on; underneath it goes on as it would.

    For a jump in the batch or the sequence length, after which the moments fit no longer (You et al. 2020, LAMB,
    arXiv 1904.00962: mixed-batch training). Where the second phase has a decay or a peak of its own: ``phases``.

    Args:
        progress: where the run stands.
        schedule: (Progress) → factor.
        at_samples: position of the jump; the first step at or after it is the first of the new rise.
        warmup_samples: length of the rise; 0 for none.

    >>> from overnight.schedule import constant
    >>> jump = {"schedule": constant, "at_samples": 50, "warmup_samples": 20}
    >>> [rewarm(Progress(samples, 10, 100), **jump) for samples in (40, 50, 60, 70)]
    [1.0, 0.5, 1.0, 1.0]
    """
    return ramp(progress, warmup_samples, at_samples) * schedule(progress)
