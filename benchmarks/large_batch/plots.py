"""The grid as pictures: quality against batch, updates and seconds to the target, E(B) with its fit."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.large_batch.applications import Application
from benchmarks.large_batch.cells import load
from benchmarks.large_batch.table import evaluated_every, fit
from benchmarks.large_batch.verdict import margin_of
from overnight.errors import UserError


def draw(out: Path, apps: Iterable[Application]) -> list[Path]:
    """One PNG for each application that has cells.

    Raises:
        UserError: without matplotlib.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise UserError("Pictures need matplotlib.", "Install it: pip install 'overnight[report]'.") from None
    made = []
    for app in apps:
        cells = [cell for cell in load(app, out) if cell["final"] is not None]
        if not cells:
            continue
        figure, axes = plt.subplots(2, 2, figsize=(12, 8.5), layout="constrained")
        arms = sorted({cell["arm"] for cell in cells} - {"base"})
        colours = {arm: plt.get_cmap("tab10")(index % 10) for index, arm in enumerate(arms)}
        _quality(axes[0, 0], app, cells, colours)
        _against(axes[0, 1], cells, colours, "updates_to_target", "updates to the target")
        _against(axes[1, 0], cells, colours, "seconds_to_target", "seconds to the target (of this machine)")
        _epochs(axes[1, 1], app, cells, colours)
        for axis in axes.flat:
            axis.set_xscale("log", base=2)
            batches = sorted({cell["batch"] for cell in cells})
            axis.set_xticks(batches, [f"{batch:,}" for batch in batches])
            axis.minorticks_off()
            axis.set_xlabel("batch")
            axis.grid(alpha=0.3)
        goal = "" if app.target is None else f", target {app.target:g}"
        figure.suptitle(f"{app.name}: {app.metric}{goal}; the base batch is {app.batch}")
        made.append(out / f"{app.name}.png")
        figure.savefig(made[-1], dpi=110)
        plt.close(figure)
    return made


def _series(
    cells: Sequence[dict[str, Any]], arm: str, value: Callable[[dict[str, Any]], Any]
) -> tuple[list[int], list[float]]:
    """Means over seeds at each batch, from the base batch on."""
    of = [cell for cell in cells if cell["arm"] in ("base", arm) and value(cell) is not None]
    batches = sorted({cell["batch"] for cell in of})
    return batches, [mean(value(cell) for cell in of if cell["batch"] == batch) for batch in batches]


def _quality(axis: Any, app: Application, cells: Sequence[dict[str, Any]], colours: dict[str, Any]) -> None:
    base = [cell["final"] for cell in cells if cell["arm"] == "base"]
    for arm, colour in colours.items():
        axis.plot(*_series(cells, arm, lambda cell: cell["final"]), "o-", color=colour, label=arm)
        axis.scatter(
            [cell["batch"] for cell in cells if cell["arm"] == arm],
            [cell["final"] for cell in cells if cell["arm"] == arm],
            color=colour, s=12, alpha=0.5,
        )  # fmt: skip
    if base:
        worst = mean(base) - margin_of(app, mean(base)) * (1 if app.higher else -1)
        axis.axhspan(mean(base), worst, color="grey", alpha=0.2, label="margin")
    if app.target is not None:
        axis.axhline(app.target, color="black", linestyle=":", label="target")
    axis.set_ylabel(f"{app.metric} at the end")
    axis.legend(fontsize=8)


def _against(axis: Any, cells: Sequence[dict[str, Any]], colours: dict[str, Any], name: str, title: str) -> None:
    drawn = False
    for arm, colour in colours.items():
        batches, values = _series(cells, arm, lambda cell: cell[name])
        if values:
            axis.plot(batches, values, "o-", color=colour, label=arm)
            drawn = True
    if drawn:
        axis.set_yscale("log", base=2)
        axis.yaxis.set_major_formatter("{x:,.0f}")
    else:
        axis.text(0.5, 0.5, "no run reached the target", ha="center", transform=axis.transAxes)
    axis.set_ylabel(title)


def _epochs(axis: Any, app: Application, cells: Sequence[dict[str, Any]], colours: dict[str, Any]) -> None:
    for arm, colour in colours.items():
        batches, values = _series(cells, arm, lambda cell: cell["epochs_to_target"])
        axis.scatter(batches, values, color=colour, label=arm)
        law = fit(app, cells, arm)
        if law is not None:
            grid = [batches[0] * (batches[-1] / batches[0]) ** (index / 50) for index in range(51)]
            said = f"{arm}: {law.least_epochs:.1f} (1 + B/{law.critical_batch:,.0f})"
            seen = evaluated_every(cells) / 2  # the law is of arriving, which is seen half an interval later
            axis.plot(grid, [law.epochs(batch) + seen for batch in grid], color=colour, alpha=0.6, label=said)
    axis.set_ylabel("epochs until the target is seen, and E(B)")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)
