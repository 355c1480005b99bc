"""What a run's units know of labelled texts: RUN/transfer/*/results.json as tables, plots and coloured texts."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from overnight.report.entry import Entry
from overnight.report.plots import Plot, calibration, few_shot, histogram, number_of_units
from overnight.report.texts import visible

FORMAT = "overnight-transfer/1"

_CLASSES_SHOWN = 12
_SHADES = 12


@dataclass(frozen=True)
class Cell:
    """A place of the confusion: a count, and its share of the true class."""

    count: int
    share: float
    right: bool


@dataclass(frozen=True)
class Shade:
    """Characters of one colour; `strength` from 0 to 100, `above` says on which side of the unit's threshold."""

    text: str
    strength: int
    above: bool


@dataclass(frozen=True)
class Heat:
    """A text in the colours of the unit."""

    label: str
    predicted: str
    probability: float
    shades: list[Shade]
    cut: int


@dataclass(frozen=True)
class Transfer:
    """One set as the page shows it; shares are in percent."""

    run: int
    label: str
    name: str
    classes: list[str]
    sizes: str
    features: str
    all_units: float
    low: float
    high: float
    one_unit: float
    unit: int
    baseline: float | None
    baseline_name: str
    majority: float
    facts: str
    rule: str
    plots: list[Plot]
    confusion: list[list[Cell]]
    heat: list[Heat]


def read_transfers(entries: Sequence[Entry]) -> tuple[list[Transfer], list[str]]:
    """What there is of all runs, by set, and one sentence for each file that could not be read."""
    found: list[Transfer] = []
    problems: list[str] = []
    for entry in entries:
        for file in sorted((entry.record.path / "transfer").glob("*/results.json")):
            if file.parent.name.startswith("."):
                continue  # one that is being written
            try:
                results = json.loads(file.read_bytes().decode("utf-8", "replace"))
                if results.get("format") != FORMAT:
                    problems.append(f"{_place(file)} has the format {results.get('format')!r} and was left out.")
                    continue
                found.append(_transfer(entry, file.parent.name, results))
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                problems.append(f"{_place(file)} could not be read and was left out.")
    return sorted(found, key=lambda transfer: (transfer.name, transfer.run)), problems


def _place(file: Path) -> str:
    return "/".join(file.parts[-3:])


def _transfer(entry: Entry, name: str, results: dict[str, Any]) -> Transfer:
    fit, best, features = results["all_units"], results["best_unit"], results["features"]
    baseline = results.get("baseline")
    classes = [visible(str(label)) for label in results["classes"]]
    counts = results["data"]["counts"]
    pool = {"last": "after the last byte"}.get(features["pool"], f"{features['pool']} over all bytes")
    return Transfer(
        run=entry.index,
        label=entry.label,
        name=name,
        classes=classes,
        sizes=", ".join(f"{split} {sum(of.values()):,}" for split, of in counts.items()),
        features=f"cell state {pool}"
        + (", tanh" if features["tanh"] else "")
        + ("" if features["layer"] == -1 else f", layer {features['layer']}"),
        all_units=100 * fit["test_accuracy"],
        low=100 * fit["low"],
        high=100 * fit["high"],
        one_unit=100 * best["test_accuracy"],
        unit=best["unit"],
        baseline=100 * baseline["test_accuracy"] if baseline else None,
        baseline_name=baseline["name"] if baseline else "",
        majority=100 * results["majority"],
        facts=f"C = {fit['C']:.4g}, chosen on {fit['chosen_on']}; {fit['nonzero']:,} of {features['hidden_size']:,} "
        f"units have a weight; balanced accuracy {100 * fit['balanced_accuracy']:.1f} %, "
        f"macro F1 {100 * fit['macro_f1']:.1f} %",
        rule=_rule(best, classes),
        plots=[
            plot
            for make in (few_shot, number_of_units, histogram, calibration)
            if (plot := make(results, classes)) is not None
        ],
        confusion=_confusion(results["confusion"]) if len(classes) <= _CLASSES_SHOWN else [],
        heat=_heat(results.get("heat") or [], best),
    )


def _rule(best: dict[str, Any], classes: list[str]) -> str:
    if best["sign"]:
        side = "above" if best["sign"] > 0 else "below"
        return f"{classes[1]} where it is {side} {best['threshold']:.3g}, else {classes[0]}"
    return "the class whose mean is nearest"


def _confusion(rows: list[list[int]]) -> list[list[Cell]]:
    return [
        [Cell(count, count / max(1, sum(row)), true == predicted) for predicted, count in enumerate(row)]
        for true, row in enumerate(rows)
    ]


def _heat(texts: list[dict[str, Any]], best: dict[str, Any]) -> list[Heat]:
    """Colours count from the unit's threshold, full where the middle 95 % of all values end; blue is the second class.

    The classes of several are not on two sides, so there blue is just above the middle of their means.
    """
    means = best["means"]
    middle = best["threshold"] if best["threshold"] is not None else sum(means) / len(means)
    sign = best["sign"] or 1
    reach = sorted(abs(value - middle) for text in texts for value in text["values"])
    full = (reach[int(0.95 * (len(reach) - 1))] if reach else 0.0) or 1.0
    return [
        Heat(
            label=visible(str(text["label"])),
            predicted=visible(str(text["predicted"])),
            probability=100 * float(text["probability"]),
            shades=_shades(text["text"], [sign * (value - middle) / full for value in text["values"]]),
            cut=int(text["cut"]),
        )
        for text in texts
    ]


def _shades(text: str, values: list[float]) -> list[Shade]:
    steps = [round(_SHADES * max(-1.0, min(1.0, value))) for value in values]
    if len(steps) != len(text):
        raise ValueError("a value for each character")
    found = []
    for step, run in groupby(zip(steps, text, strict=True), key=lambda pair: pair[0]):
        characters = "".join(character for _, character in run).replace("\n", "↵")
        found.append(Shade(visible(characters), round(100 * abs(step) / _SHADES), step > 0))
    return found
