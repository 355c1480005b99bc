"""The grid as tables in Markdown, for docs/results.md."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.large_batch.applications import Application
from benchmarks.large_batch.cells import load
from benchmarks.large_batch.verdict import Gain, Verdict, largest_within, verdicts
from overnight.scaling.convergence import Convergence, fit_convergence

COLUMNS = (
    "batch", "k", "arm", "rate", "warm-up", "updates", "epochs", "final", "best", "loss / margin", "verdict",
    "to target: epochs", "updates",
)  # fmt: skip


def print_tables(out: Path, apps: Iterable[Application]) -> None:
    """Every application that has cells in a folder, and what the largest batches buy over them."""
    gains: dict[str, list[Gain]] = {}
    for app in apps:
        cells = load(app, out)
        if not cells:
            continue
        found = verdicts(app, cells)
        print(f"\n{app.name}: {_goal(app)}\n")
        for line in rows(app, cells, found):
            print(line)
        for arm in sorted({cell["arm"] for cell in cells} - {"base"}):
            _fit(app, cells, arm)
            gain = largest_within(app, found, arm)
            if gain is not None:
                gains.setdefault(arm, []).append(gain)
        _tuned(out / app.name / "frozen.json")
    for arm, of in gains.items():
        said = ", ".join(f"{one.app} at {one.batch:,}: {one.steps:.1f}, {one.seconds:.2f}" for one in of)
        means = [math.exp(mean(math.log(getattr(one, what)) for one in of)) for what in ("steps", "seconds")]
        print(f"\n{arm}: updates and seconds saved at the largest batch within the margin: {said}; ", end="")
        print(f"geometric means {means[0]:.1f} and {means[1]:.2f}")


def rows(app: Application, cells: Sequence[dict[str, Any]], found: Sequence[Verdict]) -> list[str]:
    """Lines of one table: an arm at a batch each, seeds together."""
    judged = {(one.batch, one.arm): one for one in found}
    lines = [_joined(COLUMNS), "|" + "---|" * len(COLUMNS)]
    for batch, arm in dict.fromkeys((cell["batch"], cell["arm"]) for cell in cells):
        group = [cell for cell in cells if (cell["batch"], cell["arm"]) == (batch, arm)]
        lines.append(_row(app, batch, arm, group, judged.get((batch, arm))))
    return lines


def _row(app: Application, batch: int, arm: str, group: Sequence[dict[str, Any]], judged: Verdict | None) -> str:
    first = group[0]
    ended = [cell for cell in group if cell["final"] is not None]
    cut = ", cut" if " cut to " in first["note"] else ""
    rates = first.get("rates")
    rate = f"{min(rates):.3g} to {max(rates):.3g}" if rates else f"{first['lr']:.3g}"
    begin = [f"{batch:,}", f"{first['k']:g}", arm, rate, f"{first['warmup_steps']:.0f}{cut}"]
    if len(ended) < len(group):
        return _joined([*begin, "", "", f"did not train ({len(group) - len(ended)} of {len(group)})", *[""] * 5])
    loss = "" if judged is None or arm == "base" else f"{judged.loss:+.1f}"
    if judged is not None and math.isfinite(judged.half_width) and arm != "base":
        loss += f" ± {judged.half_width:.1f}"
    reached = [cell for cell in ended if cell["epochs_to_target"] is not None]
    to_target = ["never", ""] if app.target is not None else ["", ""]
    if reached:
        share = "" if len(reached) == len(ended) else f" ({len(reached)} of {len(ended)})"
        to_target = [
            f"{mean(cell['epochs_to_target'] for cell in reached):.1f}{share}",
            f"{mean(cell['updates_to_target'] for cell in reached):,.0f}",
        ]
    return _joined(
        [
            *begin,
            f"{mean(cell['updates'] for cell in ended):,.0f}",
            f"{mean(cell['epochs'] for cell in ended):.1f}",
            ", ".join(written(app, cell["final"]) for cell in ended),
            ", ".join(written(app, cell["best"]) for cell in ended),
            loss,
            "" if judged is None else judged.said,
            *to_target,
        ]
    )


def written(app: Application, value: float) -> str:
    """A value of the metric as text."""
    return f"{value:.2%}" if app.metric == "accuracy" else f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _joined(parts: Sequence[str]) -> str:
    return "| " + " | ".join(parts) + " |"


def _goal(app: Application) -> str:
    target = "no target" if app.target is None else f"target {written(app, app.target)}"
    points = f"{app.margin:.0%} of it" if app.relative else f"{app.margin * 100:g} points"
    if app.metric == "bleu":
        points = f"{app.margin:g} points"
    return f"{app.metric}, {target}; may be lost against our own base batch: {points}"


def fit(app: Application, cells: Sequence[dict[str, Any]], arm: str) -> Convergence | None:
    """E(B) of the epochs to the target of one arm and the base; None where fewer than two batches reach it."""
    of = [
        cell
        for cell in cells
        if cell["arm"] in (arm, "base") and cell["final"] is not None and cell["epochs_to_target"] is not None
    ]
    if len({cell["batch"] for cell in of}) < 2:
        return None
    batches, epochs = [cell["batch"] for cell in of], [cell["epochs_to_target"] for cell in of]
    try:
        return fit_convergence(batches, epochs, evaluated_every=evaluated_every(of))
    except ValueError:
        return None


def evaluated_every(cells: Sequence[dict[str, Any]]) -> float:
    """Epochs from one evaluation to the next."""
    ended = next(cell for cell in cells if cell["final"] is not None)
    return float(ended["epochs"] / max(1, len(ended["curve"])))


def _fit(app: Application, cells: Sequence[dict[str, Any]], arm: str) -> None:
    law = fit(app, cells, arm)
    if law is not None:
        print(
            f"\n{arm}: epochs to the target E(B) = {law.least_epochs:.1f} (1 + B / {law.critical_batch:,.0f}), "
            f"Bc from {law.low:,.0f} to {law.high:,.0f}{_left_out(cells, arm)}"
        )


def _left_out(cells: Sequence[dict[str, Any]], arm: str) -> str:
    missing = sorted({cell["batch"] for cell in cells if cell["arm"] == arm and not cell.get("epochs_to_target")})
    return f"; without batch {', '.join(f'{batch:,}' for batch in missing)}, which did not reach it" if missing else ""


def _tuned(path: Path) -> None:
    if not path.exists():
        return
    data = json.loads(path.read_text())
    searches = [("base", name, one) for name, one in data["base"].items()]
    searches += [(batch, name, one) for batch, found in data["oracle"].items() for name, one in found.items()]
    for where, name, one in searches:
        trials = ", ".join(
            f"{trial['lr']:g} {'did not train' if trial['score'] is None else format(trial['score'], '.4g')}"
            for trial in one["trials"]
        )
        budget = one["budget"]
        print(f"\nTuned, {where}, {name} ({budget['trials']} trials of {budget['epochs']:g} epochs): {trials}")
