"""Whether an arm holds the quality of the base batch: non-inferiority within a margin, over seeds."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, variance
from typing import Any

from benchmarks.large_batch.applications import Application
from overnight.scaling.intervals import t_quantile


@dataclass(frozen=True)
class Verdict:
    """An arm at a batch against the base batch.

    Attributes:
        batch, arm: which.
        cells: its runs, one a seed.
        loss: quality lost, in units of the margin: above 1 is more than may be lost, below 0 a gain.
        half_width: of its 95 % interval, in the same units; infinite with one seed.
        said: ``held``, ``lost`` or ``open`` with an interval; ``within`` or ``beyond`` with one seed; ``diverged``.
    """

    batch: int
    arm: str
    cells: Sequence[dict[str, Any]]
    loss: float
    half_width: float
    said: str


def margin_of(app: Application, base: float) -> float:
    """What may be lost, in units of the metric."""
    return app.margin * base if app.relative else app.margin


def verdicts(app: Application, cells: Sequence[dict[str, Any]]) -> list[Verdict]:
    """All arms against the cells of the arm ``base``; none without one.

    With two seeds and more on both sides the difference of means has Welch's interval; else only the point is judged,
    which the verdict says by its word.
    """
    groups: dict[tuple[int, str], list[dict[str, Any]]] = defaultdict(list)
    for cell in cells:
        groups[cell["batch"], cell["arm"]].append(cell)
    base = [cell["final"] for cell in groups.get((app.batch, "base"), []) if cell["final"] is not None]
    if not base:
        return []
    return [_verdict(app, base, batch, arm, found) for (batch, arm), found in groups.items()]


def _verdict(app: Application, base: Sequence[float], batch: int, arm: str, cells: Sequence[dict[str, Any]]) -> Verdict:
    values = [cell["final"] for cell in cells]
    if any(value is None for value in values):
        return Verdict(batch, arm, cells, math.inf, math.inf, "diverged")
    margin = margin_of(app, mean(base))
    loss = (mean(base) - mean(values)) * (1 if app.higher else -1) / margin
    if arm == "base":
        return Verdict(batch, arm, cells, 0.0, 0.0, "")
    if min(len(base), len(values)) < 2:
        return Verdict(batch, arm, cells, loss, math.inf, "within" if loss <= 1 else "beyond")
    parts = [variance(one) / len(one) for one in (base, values)]
    freedom = _freedom(parts, (len(base), len(values)))
    half = t_quantile(freedom) * math.sqrt(sum(parts)) / margin
    said = "held" if loss + half <= 1 else "lost" if loss - half > 1 else "open"
    return Verdict(batch, arm, cells, loss, half, said)


def _freedom(parts: Sequence[float], counts: Sequence[int]) -> int:
    """Welch and Satterthwaite's, rounded down."""
    below = sum(part**2 / (count - 1) for part, count in zip(parts, counts, strict=True))
    return max(1, math.floor(sum(parts) ** 2 / below)) if below > 0 else sum(counts) - 2


@dataclass(frozen=True)
class Gain:
    """What the largest batch that is within the margin buys, against the base batch.

    Attributes:
        app: its name.
        arm, batch: which.
        steps, seconds: base over that batch, for the whole run.
    """

    app: str
    arm: str
    batch: int
    steps: float
    seconds: float


def largest_within(app: Application, found: Sequence[Verdict], arm: str) -> Gain | None:
    """The largest batch at which an arm is within the margin; None without one, or without a base."""
    base = next((one for one in found if one.arm == "base"), None)
    good = [one for one in found if one.arm == arm and one.said in ("held", "within")]
    if base is None or not good:
        return None
    best = max(good, key=lambda one: one.batch)

    def ratio(name: str) -> float:
        before, after = (mean(float(cell[name]) for cell in one.cells) for one in (base, best))
        return before / after

    return Gain(app.name, arm, best.batch, ratio("updates"), ratio("seconds"))
