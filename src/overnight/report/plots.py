"""The plots of a transfer study: each has a horizontal axis of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from overnight.report import curves
from overnight.report.canvas import Reference, spread
from overnight.report.curves import SIZE, Axis

_UNITS, _WORDS = 0, 1
"""Tones of the run's units and of what they are compared with."""


@dataclass(frozen=True)
class Line:
    """An SVG path; `label` names it under the pointer (empty: silent)."""

    kind: str
    tone: int
    label: str
    path: str


@dataclass(frozen=True)
class Plot:
    """One plot; `keys` are its tones, kinds and labels."""

    title: str
    unit: str
    caption: str
    x: Axis
    y: Axis
    x_title: str
    lines: list[Line]
    references: list[Reference]
    keys: list[tuple[int, str, str]]


def few_shot(results: dict[str, Any], classes: list[str]) -> Plot | None:
    """Accuracy over the number of labels, with bands."""
    records = results.get("few_shot") or []
    if not records:
        return None
    whole = sum(results["data"]["counts"]["train"].values())
    ends = {"units": results["all_units"]["test_accuracy"]}
    if results.get("baseline"):
        ends[results["baseline"]["name"]] = results["baseline"]["test_accuracy"]
    values = [record[key] for record in records for key in ("low", "high")] + list(ends.values())
    y = curves.fit_axis([100 * value for value in values])
    x = Axis(min(record["labels"] for record in records) / 1.2, whole * 1.2, log=True)
    lines, keys = [], []
    for tone, (name, end) in enumerate(ends.items()):
        of = sorted((r for r in records if r["learner"] == name), key=lambda r: r["labels"])
        sizes = [float(record["labels"]) for record in of]
        low, mean, high = ([100 * record[key] for record in of] for key in ("low", "mean", "high"))
        xs, ys = [*sizes, float(whole)], [*mean, 100 * end]
        lines.append(Line("band", tone, "", _band(x, y, xs, [*low, 100 * end], [*high, 100 * end])))
        lines.append(Line("curve", tone, name, curves.line(x, y, xs, ys)))
        lines.append(Line("dot", tone, "", curves.dots(x, y, xs, ys)))
        keys.append((tone, "curve", name))
    caption = (
        "Accuracy on test after learning from so many labels; bands are 95 % intervals of the mean over samples. "
        "The last points use all labels."
    )
    return Plot("Few labels", "% right", caption, x, y, "labels", lines, _levels(results, y, majority=True), keys)


def number_of_units(results: dict[str, Any], classes: list[str]) -> Plot | None:
    """Accuracy over the number of units."""
    records = results["by_number_of_units"]
    if not records:
        return None
    xs = [float(record["units"]) for record in records]
    ys = [100 * record["test_accuracy"] for record in records]
    best = 100 * results["best_unit"]["test_accuracy"]
    baseline = [100 * results["baseline"]["test_accuracy"]] if results.get("baseline") else []
    y = curves.fit_axis([*ys, best, *baseline, 100 * results["majority"]])
    x = Axis(0.8, max(xs) * 1.25, log=True)
    unit = f"unit {results['best_unit']['unit']} alone"
    lines = [
        Line("curve", _UNITS, "heaviest units", curves.line(x, y, xs, ys)),
        Line("dot", _UNITS, "", curves.dots(x, y, xs, ys)),
        Line("ring", 2, unit, curves.dots(x, y, [1.0], [best])),
    ]
    keys = [(_UNITS, "curve", "heaviest units"), (2, "ring", unit)]
    caption = "Accuracy on test with the units of the largest weight × deviation, fitted anew on each number of them."
    levels = _levels(results, y, majority=True, baseline=True)
    return Plot("How many units", "% right", caption, x, y, "units", lines, levels, keys)


def histogram(results: dict[str, Any], classes: list[str]) -> Plot | None:
    """The best unit's values by class."""
    edges, counts = results["histogram"]["edges"], results["histogram"]["counts"]
    shown = list(enumerate(zip(classes, counts, strict=True)))[:8]
    shares = [[100 * count / max(1, sum(row)) for count in row] for row in counts]
    y = curves.fit_axis([value for row in shares for value in row], floor=0.0)
    x = Axis(edges[0], edges[-1])
    lines: list[Line] = []
    for index, (name, _) in shown:
        path = curves.line(x, y, edges, [*shares[index], shares[index][-1]], stairs=True)
        tone = _class_tone(index, len(classes))
        lines.append(Line("fill", tone, "", f"{path}V{SIZE}H0z"))
        lines.append(Line("stairs", tone, name, path))
    best = results["best_unit"]
    caption = "Its value after each test text, by the text's class; the outermost bars hold all beyond."
    if best["threshold"] is not None and x.low < best["threshold"] < x.high:
        lines.append(Line("reference", _UNITS, "", f"M{round(SIZE * x.place(best['threshold']))} 0V{SIZE}"))
        caption += " Dotted: the threshold that is best on the training texts."
    keys = [(_class_tone(index, len(classes)), "stairs", name) for index, (name, _) in shown]
    return Plot(f"Unit {best['unit']}", "% of the class", caption, x, y, "cell state", lines, [], keys)


def calibration(results: dict[str, Any], classes: list[str]) -> Plot | None:
    """How often the classifier is right when it is so sure."""
    found = results["calibration"]
    if not found["bins"]:
        return None
    low = 100 / len(classes)
    x = Axis(low - 2, 102)
    rates = [100 * item["accuracy"] for item in found["bins"]]
    y = Axis(min([low, *rates]) - 2, 102)
    xs = [100 * item["confidence"] for item in found["bins"]]
    lines = [
        Line("reference", _UNITS, "", curves.line(x, y, [low, 100], [low, 100])),
        Line("curve", _UNITS, "right", curves.line(x, y, xs, rates)),
        Line("dot", _UNITS, "", curves.dots(x, y, xs, rates)),
    ]
    caption = (
        f"How often the likeliest class is right, against its probability; dotted: perfect. Expected error "
        f"{100 * found['ece']:.1f} %, Brier score {found['brier']:.3f}."
    )
    return Plot("Calibration", "% right", caption, x, y, "probability (%)", lines, [], [])


def _class_tone(index: int, classes: int) -> int:
    """As in the coloured texts, of two classes the first is orange and the second blue."""
    return 1 - index if classes == 2 else index % 8


def _levels(results: dict[str, Any], y: Axis, *, majority: bool = False, baseline: bool = False) -> list[Reference]:
    levels = []
    if majority:
        levels.append((100 * results["majority"], "largest class"))
    if baseline and results.get("baseline"):
        levels.append((100 * results["baseline"]["test_accuracy"], results["baseline"]["name"]))
    inside = [(y.place(value), f"{name} {value:.1f}") for value, name in levels if y.low <= value <= y.high]
    return spread(inside)


def _band(x: Axis, y: Axis, xs: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> str:
    ends = [*zip(xs, highs, strict=True), *reversed(list(zip(xs, lows, strict=True)))]
    points = [f"{round(SIZE * x.place(px))} {round(SIZE * (1 - y.place(py)))}" for px, py in ends]
    return f"M{'L'.join(points)}z"
