"""A plan's page: why a recipe at another batch is what it is, from the plan as plain data (docs/scale.md)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import overnight
from overnight.errors import UserError
from overnight.report import curves, units
from overnight.report.curves import Axis
from overnight.report.page import TEMPLATES, write_page

FORMAT = "overnight-plan/1"


@dataclass(frozen=True)
class Line:
    """One curve of a chart: its label and colour, and its paths."""

    label: str
    tone: int
    path: str
    dots: str


@dataclass(frozen=True)
class Chart:
    """Something against batch, both logarithmic; `marks` are upright lines as (place, label, which end it hangs at)."""

    title: str
    caption: str
    x: Axis
    y: Axis
    lines: list[Line]
    marks: list[tuple[float, str]]


def write_plan(plan: Mapping[str, Any], out: Path, command: Sequence[str] = ()) -> Path:
    """Write the page of a plan, self-contained, and return its path.

    Args:
        plan: as `overnight scale` writes it into a run's file under "plan".
        out: the file.
        command: that made the plan.

    Raises:
        UserError: it is no plan of this version, `out` cannot be written, or jinja2 is not installed.
    """
    if plan.get("format") != FORMAT:
        raise UserError(f"This is no plan of this version ({FORMAT}).", "Make one with: overnight scale.")
    write_page(out, _render(plan, command))
    return out


def _render(plan: Mapping[str, Any], command: Sequence[str]) -> str:
    try:
        import jinja2
    except ImportError as error:
        raise UserError("The page needs jinja2.", "Install it with: pip install 'overnight[report]'") from error
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(whole=units.whole, plain=units.plain, duration=units.duration)
    return environment.get_template("why.html").render(
        plan=plan,
        version=overnight.__version__,
        charts=_charts(plan),
        size=curves.SIZE,
        command=" ".join(command),
        seconds=lambda hours: None if hours is None else 3600.0 * hours,
        unknown=units.NONE,
    )


def _charts(plan: Mapping[str, Any]) -> list[Chart]:
    rungs = [rung for rung in plan["rungs"] if rung["samples_ratio"] is not None]
    if len(rungs) < 2:
        return []
    epochs = {"samples": [rung["samples_ratio"] for rung in rungs]}
    found = [_chart(plan, rungs, "Samples for the same quality", "times the baseline's, E(kB)/E(B)", epochs)]
    steps = {"steps": [rung["steps"] for rung in rungs]}
    if all(value is not None for value in steps["steps"]):
        found.append(_chart(plan, rungs, "Steps for the same quality", "optimizer updates", steps))
    hours = {"one device": [rung["hours"] for rung in rungs]}
    if plan["devices"] > 1:
        several = [rung["shared_hours"] for rung in rungs]
        hours[f"{plan['devices']} devices"] = [None if value is None else max(value) for value in several]
    if all(value is not None for value in hours["one device"]):
        found.append(_chart(plan, rungs, "Hours for the same quality", "hours", hours))
    return found


def _chart(
    plan: Mapping[str, Any],
    rungs: Sequence[Mapping[str, Any]],
    title: str,
    caption: str,
    series: Mapping[str, Sequence[float | None]],
) -> Chart:
    batches = [float(rung["batch"]) for rung in rungs]
    critical = plan["critical"]
    known = critical is not None and critical["usable"] and critical["noise_scale"] is not None
    reach = [*batches, *([critical["noise_scale"]] if known else [])]
    x = curves.fit_axis(reach, log=True)
    y = curves.fit_axis([v for ys in series.values() for v in ys if v is not None and math.isfinite(v)], log=True)
    lines = [
        Line(label, tone, curves.line(x, y, batches, ys), curves.dots(x, y, batches, ys))
        for tone, (label, ys) in enumerate(series.items())
    ]
    marks = [(x.place(float(target["batch"])), f"{target['batch']:,}") for target in plan["targets"]]
    if known:
        marks.append((x.place(critical["noise_scale"]), "critical"))
    return Chart(title, caption, x, y, lines, sorted(marks))
