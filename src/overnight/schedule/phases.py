"""Several schedules, one after another."""

from bisect import bisect_right
from collections.abc import Sequence

from overnight.schedule.progress import Progress, Schedule, above_zero, rising


def phases(
    progress: Progress,
    *,
    schedules: Sequence[Schedule],
    boundaries: Sequence[float],
    peaks: Sequence[float] | None = None,
) -> float:
    """Each schedule in its own stretch of the run, which it sees as a whole run: a warm-up in it is a re-warm-up.

    BERT as You et al. 2020 (LAMB, arXiv 1904.00962) and its followers train it: nine tenths at sequence length 128,
    one tenth at 512, each with a warm-up and a decay of its own.

    Args:
        progress: where the run stands.
        schedules: (Progress) → factor, one for each phase.
        boundaries: positions in samples where the second phase, the third … begin.
        peaks: factor of each phase's peak; all 1 unless given.

    Raises:
        ValueError: if their numbers do not fit together, or the boundaries do not rise.

    >>> from functools import partial
    >>> from overnight.schedule import linear
    >>> both = {"schedules": (linear, partial(linear, warmup_samples=20)), "boundaries": (100,), "peaks": (1, 0.5)}
    >>> [phases(Progress(samples, 10, 200), **both) for samples in (0, 50, 100, 120, 160)]
    [1.0, 0.5, 0.25, 0.5, 0.25]
    """
    rising("boundaries", boundaries)
    if len(schedules) != len(boundaries) + 1:
        raise ValueError(f"{len(schedules)} schedules need {len(schedules) - 1} boundaries, not {len(boundaries)}.")
    if peaks is not None and len(peaks) != len(schedules):
        raise ValueError(f"{len(schedules)} schedules need {len(schedules)} peaks, not {len(peaks)}.")
    phase = bisect_right(boundaries, progress.samples)
    start = boundaries[phase - 1] if phase else 0.0
    end = boundaries[phase] if phase < len(boundaries) else max(start, progress.total)
    factor = schedules[phase](Progress(progress.samples - start, progress.batch, end - start))
    if peaks is None:
        return factor
    above_zero(peaks=peaks[phase])
    return factor * peaks[phase]
