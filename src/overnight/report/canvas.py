"""Panels of curves: series of several runs placed on common axes, once for each choice of horizontal axis."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from overnight.report import curves, units
from overnight.report.curves import Axis, Series
from overnight.report.entry import Entry
from overnight.report.measure import Measure, measure_of
from overnight.report.read import Evaluation, Metric

AXES = ("bytes", "steps", "time")

# The page is to stay under 2 MB however many runs it compares, and no screen shows more points than this.
_POINTS_PER_CURVE, _POINTS_PER_PANEL = 700, 6000

Records = Sequence[Metric | Evaluation]


@dataclass(frozen=True)
class Draft:
    """Something to draw: `ys` (to `highs`, for bars) in the panel's unit, at the bytes, steps and seconds of `at`.

    `kind` is raw, curve, stairs, link (between dots), dot, ring or bar; `label` names it under the pointer (empty:
    silent); `tone` is its colour.
    """

    run: int
    tone: int
    kind: str
    at: Records
    ys: Series
    label: str = ""
    highs: Series = ()


@dataclass(frozen=True)
class Mark:
    """A draft as an SVG path."""

    run: int
    tone: int
    kind: str
    label: str
    path: str


@dataclass(frozen=True)
class Layer:
    """A panel's marks over one horizontal axis, which begins at zero."""

    axis: str
    title: str
    unit: str
    high: float
    ticks: list[tuple[float, str]]
    marks: list[Mark]


@dataclass(frozen=True)
class Reference:
    """A level line at `place` (0 bottom, 1 top), its label at `label_place` so that labels do not cover each other."""

    place: float
    label_place: float
    label: str


@dataclass(frozen=True)
class Panel:
    """One plot, drawn over each horizontal axis in turn; `keys` are its tones, kinds and labels."""

    title: str
    unit: str
    caption: str
    y: Axis
    layers: list[Layer]
    references: list[Reference]
    keys: list[tuple[int, str, str]]
    wide: bool = False


class Canvas:
    """The horizontal axes that all panels of a page share, so that one place means one moment everywhere."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = entries
        self.measure = measure_of(entries)
        self._budget = max(60, min(_POINTS_PER_CURVE, _POINTS_PER_PANEL // max(1, len(entries))))
        records: list[Metric | Evaluation] = []
        for entry in entries:
            records += [*entry.record.metrics, *entry.record.evaluations]
        ends = {axis: max((v for r in records if (v := _moment(r, axis)) is not None), default=None) for axis in AXES}
        self._scales = {axis: _scale(axis, end, self.measure) for axis, end in ends.items() if end is not None}

    def logged(
        self,
        value: Callable[[Metric], float | None],
        *,
        label: str = "",
        unit: float = 1.0,
        smoothed: bool = False,
        stairs: bool = False,
    ) -> list[Draft]:
        """Drafts of one logged value of every run, divided by `unit`; `smoothed` adds the mean over 3 % of the run."""
        drafts = []
        for entry in self.entries:
            at = entry.record.metrics
            ys = [None if (v := value(metric)) is None else v / unit for metric in at]
            present = len(ys) - ys.count(None)
            if smoothed and present >= 24:
                drafts.append(Draft(entry.index, entry.index, "raw", at, ys))
                ys = curves.smooth(ys, max(2, len(ys) // 60))
            kind = "stairs" if stairs else "curve"
            if present:
                drafts.append(Draft(entry.index, entry.index, kind if present > 1 else "dot", at, ys, label))
        return drafts

    def panel(
        self,
        title: str,
        unit: str,
        caption: str,
        y: Axis,
        drafts: Sequence[Draft],
        *,
        wide: bool = False,
        references: Mapping[str, float] | None = None,
    ) -> Panel:
        """Draw `drafts` over every horizontal axis; `references` are level lines that lie within `y`."""
        levels = [(y.place(value), f"{name} {self.measure.write(value)}") for name, value in (references or {}).items()]
        layers = [self._layer(axis, y, drafts) for axis in self._scales]
        keys = list(dict.fromkeys((draft.tone, draft.kind, draft.label) for draft in drafts if draft.label))
        return Panel(title, unit, caption, y, layers, spread(levels), keys, wide)

    def _layer(self, axis: str, y: Axis, drafts: Sequence[Draft]) -> Layer:
        end, divisor, title, unit = self._scales[axis]
        x = Axis(0.0, 1.015 * end / divisor)
        # Raw lines are drawn first, dots last, whatever the order of the runs.
        order = ("raw", "curve", "stairs", "link", "bar", "ring", "dot")
        marks = [
            Mark(d.run, d.tone, d.kind, d.label, path)
            for d in sorted(drafts, key=lambda d: order.index(d.kind))
            if (path := self._path(d, axis, divisor, x, y))
        ]
        return Layer(axis, title, unit, x.high, x.ticks(), marks)

    def _path(self, draft: Draft, axis: str, divisor: float, x: Axis, y: Axis) -> str:
        xs = [None if (v := _moment(record, axis)) is None else v / divisor for record in draft.at]
        if draft.kind in ("dot", "ring"):
            return curves.dots(x, y, xs, draft.ys)
        if draft.kind == "bar":
            return curves.bars(x, y, xs, draft.ys, draft.highs)
        kept = curves.thin(draft.ys, self._budget if draft.kind == "raw" else self._budget // 2)
        stairs = draft.kind == "stairs"
        return curves.line(x, y, [xs[i] for i in kept], [draft.ys[i] for i in kept], stairs=stairs)


def _moment(record: Metric | Evaluation, axis: str) -> float | None:
    if axis == "steps":
        return float(record.step)
    return record.tokens if axis == "bytes" else record.seconds


def _scale(axis: str, end: float, measure: Measure) -> tuple[float, float, str, str]:
    """(end, divisor, title, unit) of a horizontal axis."""
    end = end if end > 0 else 1.0
    if axis == "time":
        choices = ((3600.0, "hours", "h"), (60.0, "minutes", "min"))
        divisor, name, unit = next((choice for choice in choices if end >= 2 * choice[0]), (1.0, "seconds", "s"))
        return end, divisor, f"training time ({name})", unit
    divisor, prefix = units.si_prefix(end)
    if axis == "bytes":
        seen = f"{measure.counted} seen"
        return end, divisor, f"{seen} ({prefix}{measure.unit})" if prefix else seen, f"{prefix}{measure.unit}"
    if end < 100_000:
        divisor, prefix = 1.0, ""
    return end, divisor, f"steps ({prefix})" if prefix else "steps", f"{prefix} steps".strip()


def spread(levels: Sequence[tuple[float, str]], gap: float = 0.065) -> list[Reference]:
    """Level lines from the lowest up, each label at its line or just above the label below it."""
    placed: list[Reference] = []
    for place, label in sorted(levels):
        free = placed[-1].label_place + gap if placed else place
        placed.append(Reference(place, max(place, free), label))
    return placed
