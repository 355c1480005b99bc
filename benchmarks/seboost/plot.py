"""Loss against rate, with and without boosts: a panel for each task and base optimizer."""

import math
from pathlib import Path
from typing import Any

from benchmarks.seboost.summary import SCHEDULES, USABLE, groups, loss_of, tuning
from overnight.errors import UserError

COLORS = {"base": "#7a7a7a", "boost": "#c2410c"}
STYLES = {"constant": "-", "cosine": "--"}


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """Write a PNG; the dotted line is where rates begin to be usable.

    Raises:
        UserError: without matplotlib, or without runs.
    """
    try:
        from matplotlib import pyplot
    except ImportError:
        raise UserError("Plots need matplotlib.", "Install overnight[report].") from None
    made = [found for found in runs if "arm" in found]
    keys = [key[:2] for key in groups(made, False)]
    if not keys:
        raise UserError("There is nothing to draw.", "Run the benchmark first.")
    columns = min(len(keys), 5 if len(keys) > 12 else 3)
    rows = math.ceil(len(keys) / columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(2.7 * columns, 2.1 * rows + 0.5), squeeze=False)
    for axis in axes.flat[len(keys) :]:
        axis.set_visible(False)
    for axis, (task, base) in zip(axes.flat, keys, strict=False):
        limit = USABLE * min(map(loss_of, tuning(made, task, base, "base")))
        for arm, schedule in ((arm, schedule) for arm in COLORS for schedule in SCHEDULES):
            found = sorted((f["rate"], loss_of(f)) for f in tuning(made, task, base, arm) if f["schedule"] == schedule)
            shown = [(rate, min(loss, 8 * limit)) for rate, loss in found]
            axis.plot(*zip(*shown, strict=True), STYLES[schedule], color=COLORS[arm], marker=".", markersize=4)
        axis.axhline(limit, color="black", linewidth=0.7, linestyle=":")
        losses = [loss_of(f) for arm in COLORS for f in tuning(made, task, base, arm)]
        top = min(max((x for x in losses if math.isfinite(x)), default=limit), 2.5 * limit)
        axis.set(xscale="log", ylim=(0.95 * min(losses), 1.02 * top))
        axis.set_title(f"{task}: {base}", fontsize=8)
        axis.tick_params(labelsize=6, which="both")
    for row in axes:
        row[0].set_ylabel("held-out loss", fontsize=7)
    names = [f"{arm}, {schedule}" for arm in ("alone", "boosted") for schedule in SCHEDULES]
    figure.legend(
        axes[0][0].get_lines()[:4], names, loc="upper center", ncol=min(4, 2 * columns), fontsize=8, frameon=False
    )
    figure.supxlabel("rate", fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.35 / figure.get_figheight()))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
