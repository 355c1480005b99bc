"""What DATE on line is given, checked: what is fixed, how a batch is cut into micro-batches, how long a warm-up is."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from overnight.errors import UserError
from overnight.scaling.group_settings import FIXABLE
from overnight.scaling.growth import BatchGrowth
from overnight.scaling.hyperparameters import Hyperparameters
from overnight.scaling.rules import LONGEST_WARMUP


@dataclass(frozen=True)
class Limits:
    """How far DATE may go.

    Attributes:
        fixed: settings that it leaves alone.
        max_stretch: the run takes at most so many times the samples.
        batch_warmup: share of the run in which the batch may be smaller.
        rollbacks: at most so many.
    """

    fixed: frozenset[str]
    max_stretch: float
    batch_warmup: float
    rollbacks: int


def limits(fixed: Collection[str], max_stretch: float | None, batch_warmup: float | None, rollbacks: int) -> Limits:
    """Defaults for what is None: a stretch of 2, a tenth of the run.

    Raises:
        UserError: for settings that conflict or cannot be.

    >>> limits({"global_batch_size"}, None, None, 3).batch_warmup
    0.0
    """
    fixed = frozenset([fixed] if isinstance(fixed, str) else fixed)
    unknown = sorted(fixed - set(FIXABLE))
    if unknown:
        raise UserError(f"{unknown[0]!r} is no setting that could be fixed.", f"There are {', '.join(FIXABLE)}.")
    conflicts = (
        ("total_samples", "max_stretch", max_stretch, 1.0),
        ("global_batch_size", "batch_warmup", batch_warmup, 0.0),
    )
    for name, other, given, harmless in conflicts:
        if name in fixed and given not in (None, harmless):
            also = " (as a budget of minutes or --set fixes it)" if name == "total_samples" else ""
            raise UserError(
                f"{name} is fixed{also}, and {other} is {given:g}.", f"Leave out {other}, or do not fix it."
            )
    stretch = 2.0 if max_stretch is None else max_stretch
    share = 0.1 if batch_warmup is None else batch_warmup
    if not (1 <= stretch < math.inf and 0 <= share <= 1 and rollbacks >= 0):
        raise UserError(
            f"max_stretch={max_stretch}, batch_warmup={batch_warmup}, rollbacks={rollbacks} cannot work.",
            "max_stretch is at least 1, batch_warmup a share of the run, rollbacks at least 0.",
        )
    return Limits(fixed, stretch, 0.0 if "global_batch_size" in fixed else share, rollbacks)


@dataclass(frozen=True)
class Cut:
    """A batch in micro-batches.

    Attributes:
        full: B, in samples.
        together: samples of one micro-batch of every rank.
        noise: the noise scale is measured.
    """

    full: int
    together: int
    noise: bool


def cut(baseline: Hyperparameters, batch: int, micro: int | None, ranks: int, measure: bool) -> Cut:
    """Cut a batch.

    Args:
        baseline: whose batch is the least.
        batch: B.
        micro: samples of a rank's micro-batch; None for its whole share.
        ranks: that there are.
        measure: the noise scale.

    Raises:
        UserError: if it cannot be cut, or not so that the noise scale can be measured.
    """
    base, share = baseline.global_batch_size, batch // ranks
    if batch < base:
        raise UserError(f"A batch of {batch} is below the baseline's {base}.", f"Take {base} or more.")
    if batch % ranks or share % (micro or share):
        raise UserError(
            f"A batch of {batch} is no whole number of micro-batches of {micro} on each of {ranks} ranks.",
            f"Take a micro-batch that divides {batch / ranks:g}, or another batch.",
        )
    micro = micro or share
    if measure and batch > base and batch // micro < 2:
        raise UserError(
            "The gradient noise scale cannot be measured from one micro-batch on one rank.",
            f"Take micro-batches of {math.gcd(batch, base)} samples, or follow LEGW without measuring "
            "(DATE(measure=False), --set adapt.measure=False).",
        )
    return Cut(batch, micro * ranks, measure and batch > base)


def growth(baseline: Hyperparameters, given: Cut, ranks: int, share: float) -> BatchGrowth:
    """How the batch grows; at once to the full one where the noise scale is not measured."""
    full = given.full // given.together
    return BatchGrowth.between(baseline.global_batch_size, given.together, full, ranks, share if given.noise else 0.0)


def warmup_steps(baseline: Hyperparameters, batch: int, fixed: Collection[str]) -> int:
    """LEGW's steps, the baseline's own, within 30 % of the run; of a fixed warm-up those of its samples.

    >>> tuned = Hyperparameters(lr=0.1, global_batch_size=10, warmup_samples=1000, total_samples=10_000)
    >>> warmup_steps(tuned, 20, ()), warmup_steps(tuned, 100, ()), warmup_steps(tuned, 100, {"warmup_samples"})
    (100, 30, 10)
    """
    if "warmup_samples" in fixed:
        return math.ceil(baseline.warmup_samples / batch)
    steps, total = baseline.warmup_steps, baseline.total_samples
    if total is None or total == math.inf:
        return steps
    longest = max(LONGEST_WARMUP, baseline.warmup_samples / total)
    return min(steps, math.ceil(longest * total / batch))


@dataclass(frozen=True)
class Position:
    """Where a schedule stands, as ``overnight.schedule.Progress``: effective samples after the warm-up, which took
    ``begun`` of them."""

    samples: float
    batch: float
    total: float
    begun: float = 0.0


def schedule_factor(
    schedule: Callable[[Any], float], position: float, warm_until: float, batch: int, total: float | None
) -> float:
    """The factor of a schedule that begins where the warm-up ends; all in effective samples.

    >>> schedule_factor(lambda p: 1 - p.samples / p.total, position=60, warm_until=20, batch=10, total=100)
    0.5
    """
    left = max(0.0, (math.inf if total is None else total) - warm_until)
    return schedule(Position(max(0.0, position - warm_until), float(batch), left, warm_until))


def intervals(total_samples: float | None, global_batch_size: int) -> tuple[int, int]:
    """Steps from one measurement to the next, and from one state that is kept to the next.

    A long run is measured more rarely, at least four hundred times.

    >>> intervals(10_000, 10), intervals(100_000, 10), intervals(None, 10)
    ((10, 50), (25, 100), (4, 50))
    """
    if total_samples is None:
        return 4, 50
    steps = min(total_samples, 1e18) / global_batch_size
    return max(1, min(10, int(steps / 100)), min(25, int(steps / 400))), max(10, min(100, int(steps / 20)))
