"""Measured steps against a model of a step's time, and what that model says of 128 GPUs."""

import statistics
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from benchmarks.parallel.cells import Cell
from benchmarks.parallel.modes import samples_words
from overnight.errors import UserError
from overnight.scaling.links import LINKS
from overnight.scaling.step_cells import StepCell
from overnight.scaling.step_plan import plan, plan_table
from overnight.scaling.step_time import fit

PLANNED_WORKERS, PER_HOST = 128, 8
PLANNED_MODEL = "lstm10k"
PLANNED_LINKS = ("1G", "10G", "25G", "100G", "ndr")


def step_cells(results: Mapping[Cell, Mapping[str, Any]]) -> dict[Cell, StepCell]:
    """Cells of speed of several workers, with what the same workers computed when they exchanged nothing.

    Times are means: most local steps have no exchange, and throughput is of means.
    """
    found = {}
    for cell, record in results.items():
        crowd = results.get(Cell("crowd", cell.model, cell.mode, cell.workers), {})
        if cell.kind != "speed" or cell.workers == 1 or "step_ms" not in record or "step_ms" not in crowd:
            continue
        sizes = record["bytes_per_step"]
        found[cell] = StepCell(
            cell.mode,
            workers=cell.workers,
            bits_per_second=None if cell.megabits is None else 1e6 * cell.megabits,
            bytes_per_step=sizes.get("formula", sizes["meter"]),
            compute_ms=crowd["step_ms"]["mean"],
            step_ms=record["step_ms"]["mean"],
            messages=record.get("messages", 1.0),
            received_bytes_per_step=sizes.get("received"),
            remote_workers=cell.workers if cell.mode.startswith("async") else None,
            model=cell.model,
        )
    return found


def print_predictions(results: Mapping[Cell, Mapping[str, Any]]) -> None:
    """The fitted model beside what was measured, and a plan."""
    cells = step_cells(results)
    try:
        model = fit(list(cells.values()), blocks=len(cells))
    except UserError as error:
        print(f"\nNo prediction: {error}")
        return
    errors = [abs(error) for error in model.errors(list(cells.values()))]
    print(f"\n{model.table(list(cells.values()))}")
    near = sum(error <= 10 for error in errors)
    unseen = [abs(error) for error in model.unseen]
    print(f"{near} of {len(errors)} cells within 10 %; left out one by one, {sum(error <= 10 for error in unseen)}")
    print(f"(median {statistics.median(unseen):.1f} %, nine of ten within {model.error:.0%})")
    for name, (low, high) in model.intervals.items():
        print(f"  {name:<20}{getattr(model, name):>9.3f}  ({low:.3f} to {high:.3f})")
    ways = [
        replace(cell, compute_ms=_alone(at, results))
        for at, cell in cells.items()
        if at.workers == 4 and at.megabits is None and at.model == PLANNED_MODEL and _alone(at, results)
    ]
    ways = sorted((way for way in ways if not way.through_server), key=lambda way: way.mode != "ddp")
    if ways:
        rows = plan(
            ways, PLANNED_WORKERS, [LINKS[name] for name in PLANNED_LINKS],
            per_host=PER_HOST, inside=LINKS["nvlink4"], links_per_host=1,
        )  # fmt: skip
        print(f"\n{PLANNED_WORKERS} workers, {PER_HOST} a host, as fast as one here and with nothing in their way:")
        print(plan_table(rows))


def _alone(cell: Cell, results: Mapping[Cell, Mapping[str, Any]]) -> float:
    """A step of one worker with nobody beside it; 0 if that was not measured."""
    alone = results.get(Cell("speed", cell.model, "sampled" if samples_words(cell.mode) else "ddp", 1), {})
    found: float = alone.get("step_ms", {}).get("mean", 0.0)
    return found
