"""Where a recommender errs: the last evaluation of a run as a table and plots by user activity and by time."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from overnight.report import curves
from overnight.report.curves import Axis
from overnight.report.entry import Entry
from overnight.report.plots import Line, Plot
from overnight.report.texts import visible

MODEL = "this model"
LINES = (("rmse", MODEL), ("biases_rmse", "damped biases"))
"""What a part of the error holds, and whose it is."""
_DAY = 86_400


@dataclass(frozen=True)
class Row:
    """One line of the table; a cell is None where there is no such number."""

    name: str
    cells: list[float | None]


@dataclass(frozen=True)
class Rated:
    """One run's held-out ratings as the page shows them."""

    run: int
    label: str
    name: str
    columns: list[str]
    rows: list[Row]
    about: str
    plots: list[Plot]


def read_rated(entries: Sequence[Entry]) -> tuple[list[Rated], list[str]]:
    """What the last evaluations say, and one sentence for each run whose parts could not be read."""
    found, problems = [], []
    for entry in entries:
        if entry.record.metric != "rmse" or entry.record.summary is None:
            continue
        try:
            summary = json.loads((entry.record.path / "summary.json").read_bytes().decode("utf-8", "replace"))
            final = summary.get("final") or {}
            if "by_activity" in final:
                found.append(_rated(entry, final, summary.get("baselines") or []))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            problems.append(f"The parts of the error of {entry.label} could not be read and were left out.")
    return found, problems


def _rated(entry: Entry, final: dict[str, Any], baselines: list[dict[str, Any]]) -> Rated:
    ranking = final.get("ranking") or {"k": [], "of": []}
    errors = {MODEL: final, **{item["name"]: item for item in sorted(baselines, key=lambda item: float(item["rmse"]))}}
    lists = {item["name"]: item for item in ranking["of"]}
    rows = []
    for name in dict.fromkeys([*errors, *lists]):
        cells = [
            float(errors[name][key]) if name in errors and key in errors[name] else None for key in ("rmse", "mae")
        ]
        for at in range(len(ranking["k"])):
            cells += [float(lists[name][key][at]) if name in lists else None for key in ("recall", "ndcg")]
        rows.append(Row(visible(str(name)), cells))
    plots = [plot for plot in (by_activity(final["by_activity"]), by_time(final["by_time"])) if plot is not None]
    lengths = [int(k) for k in ranking["k"]]
    return Rated(
        run=entry.index,
        label=entry.label,
        name="held-out ratings",
        columns=["RMSE", "MAE", *(f"{name}@{k}" for k in lengths for name in ("recall", "NDCG"))],
        rows=rows,
        about=_about(final, ranking),
        plots=plots,
    )


def _about(final: dict[str, Any], ranking: dict[str, Any]) -> str:
    said = []
    if ranking["k"]:
        least = "" if ranking["relevant"] is None else f" of at least {float(ranking['relevant']):g}"
        said.append(
            f"Lists: held-out items{least} of {int(ranking['users']):,} users among all that they had not rated in "
            "training."
        )
    if final.get("cold"):
        said.append(
            f"{int(final['cold']):,} more ratings are of users or items that training does not have; with them, "
            f"answered by the mean, RMSE {float(final['rmse_with_cold']):.4f}."
        )
    return " ".join([*said, visible(str(ranking.get("left_out", "")))]).strip()


def by_activity(parts: list[dict[str, Any]]) -> Plot | None:
    """RMSE over how many ratings a user has in training."""
    if not parts:
        return None
    xs = [(float(part["low"]) * float(part["high"])) ** 0.5 for part in parts]
    x = Axis(min(xs) / 1.5, max(xs) * 1.5, log=True)
    users = ", ".join(f"{int(part['low']):,}–{int(part['high']):,}: {int(part['users']):,}" for part in parts)
    caption = f"Users by their number of training ratings ({users} users). Lower is better."
    return _plot("Error by activity", caption, x, "training ratings of the user", xs, parts)


def by_time(parts: list[dict[str, Any]]) -> Plot | None:
    """RMSE over when a rating was given."""
    if not parts:
        return None
    start = float(parts[0]["low"])
    xs = [((float(part["low"]) + float(part["high"])) / 2 - start) / _DAY for part in parts]
    end = (float(parts[-1]["high"]) - start) / _DAY
    caption = f"Held-out ratings by when they were given, {_date(start)} to {_date(float(parts[-1]['high']))}."
    return _plot("Error by time", caption, Axis(0.0, end), f"days since {_date(start)}", xs, parts)


def _plot(title: str, caption: str, x: Axis, x_title: str, xs: list[float], parts: list[dict[str, Any]]) -> Plot:
    series = [(tone, name, [float(part[key]) for part in parts]) for tone, (key, name) in enumerate(LINES)]
    y = curves.fit_axis([value for _, _, ys in series for value in ys])
    lines: list[Line] = []
    for tone, name, ys in reversed(series):
        lines.append(Line("curve", tone, name, curves.line(x, y, xs, ys)))
        lines.append(Line("dot", tone, "", curves.dots(x, y, xs, ys)))
    return Plot(title, "RMSE", caption, x, y, x_title, lines, [], [(tone, "curve", name) for tone, name, _ in series])


def _date(seconds: float) -> str:
    try:
        return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d}"
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s"
