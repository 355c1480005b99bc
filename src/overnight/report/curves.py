"""Series with gaps (None): smoothed, thinned, placed on axes and written as SVG paths.

A frame is a square of `SIZE` units with y downwards. The page stretches it to the space there is, so coordinates are
whole numbers and a path of several hundred points takes a few kilobytes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from overnight.report import units

SIZE = 10_000
_FAR = 20 * SIZE  # a coordinate further out than this changes nothing in the frame

Series = Sequence[float | None]


def smooth(values: Series, half: int) -> list[float | None]:
    """The mean over up to `half` values on each side, leaving gaps where they are.

    At the start, where curves are steep, the window is narrow and symmetric, so it neither lags nor lifts the curve;
    only at the end is it cut off on one side.

    >>> smooth([6.0, 5.0, 4.0, 3.0, 5.0, 4.0], 1)
    [6.0, 5.0, 4.0, 4.0, 4.0, 4.5]
    """
    sums, counts = [0.0], [0]
    for value in values:
        sums.append(sums[-1] + (value or 0.0))
        counts.append(counts[-1] + (value is not None))
    result: list[float | None] = []
    for i, value in enumerate(values):
        reach = min(i // 3, half)
        low, high = i - reach, min(len(values), i + reach + 1)
        result.append(None if value is None else (sums[high] - sums[low]) / (counts[high] - counts[low]))
    return result


def thin(values: Series, budget: int) -> list[int]:
    """Indices of at most about `budget` values that draw the same picture: each stretch's lowest, highest and a gap.

    >>> thin([0.0, 9.0, 1.0, 2.0, None, 3.0, 4.0, -5.0], 4)
    [0, 1, 4, 6, 7]
    """
    if len(values) <= budget:
        return list(range(len(values)))
    buckets = max(1, budget // 2)
    kept = {0, len(values) - 1}
    for bucket in range(buckets):
        stretch = range(bucket * len(values) // buckets, (bucket + 1) * len(values) // buckets)
        present = [(value, i) for i in stretch if (value := values[i]) is not None]
        if present:
            kept.update((min(present)[1], max(present)[1]))
        if len(present) < len(stretch):
            kept.add(next(i for i in stretch if values[i] is None))
    return sorted(kept)


@dataclass(frozen=True)
class Axis:
    """A stretch of numbers from `low` to `high`, straight or logarithmic; one of counts has no ticks between them."""

    low: float
    high: float
    log: bool = False
    counts: bool = False

    def place(self, value: float) -> float:
        """Where `value` lies, 0 at `low` and 1 at `high`."""
        if self.log:
            return math.log(max(value, 1e-300) / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """At most about `count` round numbers on the axis as (place, label).

        >>> [label for _, label in Axis(0, 23).ticks()]
        ['0', '5', '10', '15', '20']
        >>> [label for _, label in Axis(0.2, 200, log=True).ticks()]
        ['1', '10', '100']
        """
        if self.log:
            values = self._log_ticks(count)
            return [(self.place(value), units.si(value).replace(" ", "")) for value in values]
        step = _round_step((self.high - self.low) / count)
        step = max(1.0, step) if self.counts else step
        decimals = max(0, -math.floor(math.log10(step) + 1e-9))
        first, last = math.ceil(self.low / step - 1e-6), math.floor(self.high / step + 1e-6)
        return [(self.place(i * step), f"{i * step:,.{decimals}f}") for i in range(first, last + 1)]

    def _log_ticks(self, count: int) -> list[float]:
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values: list[float] = []
        for digits in ((1,), (1, 3), (1, 2, 5)):
            values = [d * 10.0**e for e in decades for d in digits if self.low <= d * 10.0**e <= self.high * 1.0001]
            if len(values) >= 3:
                break
        return values[:: math.ceil(len(values) / (count + 2))] if values else [self.low, self.high]


def fit_axis(values: Iterable[float], *, floor: float | None = None, log: bool = False, counts: bool = False) -> Axis:
    """An axis that holds all `values` with a little room; it begins at `floor` if that is given.

    >>> fit_axis([1.0, 2.0])
    Axis(low=0.95, high=2.05, log=False, counts=False)
    >>> fit_axis([0.0], floor=0.0)
    Axis(low=0.0, high=1.0, log=False, counts=False)
    """
    found = list(values)
    if log and (found := [value for value in found if value > 0]):
        return Axis(min(found) / 1.25, max(found) * 1.25, log=True)
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    if floor is not None:
        return Axis(floor, high + 0.05 * (high - floor) if high > floor else floor + 1.0, counts=counts)
    if high - low <= 1e-9 * max(1.0, abs(high)):
        room = max(0.05 * abs(high), 1e-6)
        return Axis(low - room, high + room)
    room = 0.05 * (high - low)
    return Axis(low - room, high + room)


def middle(values: Iterable[float], share: float = 0.98) -> list[float]:
    """The lowest and highest of the middle `share` of `values`, so that a few spikes do not set the scale.

    >>> middle([5.0, 1.0, 2.0, 900.0], 0.5)
    [2.0, 5.0]
    """
    ordered = sorted(values)
    cut = math.floor(len(ordered) * (1 - share) / 2)
    return [ordered[cut], ordered[len(ordered) - 1 - cut]] if ordered else []


def line(x: Axis, y: Axis, xs: Series, ys: Series, *, stairs: bool = False) -> str:
    """The SVG path through the points, broken at gaps; a point between two gaps is a dot. `stairs` holds each value.

    >>> line(Axis(0, 2), Axis(0, 1), [0, 1, 2], [0.0, 1.0, 0.5])
    'M0 10000l5000-10000 5000 5000'
    """
    parts: list[str] = []
    start = previous = None
    drawing = ""
    for px, py in zip(xs, ys, strict=True):
        if px is None or py is None or (y.log and py <= 0):
            if start is not None and start == previous and parts:
                parts.append("h0")
            start = previous = None
            continue
        point = _point(x, y, px, py)
        if previous is None:
            parts.append(f"M{point[0]} {point[1]}")
            start = previous = point
            drawing = ""
            continue
        dx, dy = point[0] - previous[0], point[1] - previous[1]
        if dx == 0 and dy == 0:
            continue
        steps = ((dx, 0), (0, dy)) if stairs and dx and dy else ((dx, dy),)
        for right, down in steps:
            parts.append(_pair(drawing, right, down))
            drawing = "l"
        previous = point
    if start is not None and start == previous and parts:
        parts.append("h0")
    return "".join(parts)


def dots(x: Axis, y: Axis, xs: Series, ys: Series) -> str:
    """The SVG path of one dot each point (a stroke of no length with round ends).

    >>> dots(Axis(0, 2), Axis(0, 1), [1, 2], [0.5, None])
    'M5000 5000h0'
    """
    pairs = zip(xs, ys, strict=True)
    points = [_point(x, y, px, py) for px, py in pairs if px is not None and py is not None]
    return "".join(f"M{px} {py}h0" for px, py in points)


def bars(x: Axis, y: Axis, xs: Series, lows: Series, highs: Series) -> str:
    """The SVG path of one upright bar each point from low to high.

    >>> bars(Axis(0, 2), Axis(0, 1), [1], [0.25], [0.75])
    'M5000 7500V2500'
    """
    parts = []
    for px, low, high in zip(xs, lows, highs, strict=True):
        if px is not None and low is not None and high is not None:
            (column, bottom), (_, top) = _point(x, y, px, low), _point(x, y, px, high)
            parts.append(f"M{column} {bottom}V{top}")
    return "".join(parts)


def _point(x: Axis, y: Axis, px: float, py: float) -> tuple[int, int]:
    column = round(SIZE * x.place(px))
    row = round(SIZE * (1 - y.place(py)))
    return column, max(-_FAR, min(_FAR, row))


def _pair(drawing: str, right: int, down: int) -> str:
    lead = "l" if not drawing else ("" if right < 0 else " ")
    return f"{lead}{right}{'' if down < 0 else ' '}{down}"


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return next(digit * power for digit in (1, 2, 5, 10) if rough <= digit * power * (1 + 1e-9))
