"""Measured steps against a model of a step's time, and what that model says of 128 GPUs."""

from collections.abc import Mapping
from typing import Any

from benchmarks.parallel.cells import Cell
from benchmarks.parallel.modes import samples_words
from overnight.errors import UserError
from overnight.scaling.links import LINKS
from overnight.scaling.step_cells import StepCell
from overnight.scaling.step_plan import plan, plan_table
from overnight.scaling.step_time import fit

PLANNED_WORKERS, PER_HOST = 128, 8
PLANNED_LINKS = ("1G", "10G", "25G", "100G", "ndr")


def step_cells(results: Mapping[Cell, Mapping[str, Any]]) -> dict[Cell, StepCell]:
    """Cells of speed of several workers, with the time of one worker alone beside them."""
    found = {}
    for cell, record in results.items():
        alone = results.get(Cell("speed", cell.model, "sampled" if samples_words(cell.mode) else "ddp", 1), {})
        if cell.kind != "speed" or cell.workers == 1 or "step_ms" not in record or "step_ms" not in alone:
            continue
        sizes, times = record["bytes_per_step"], record["step_ms"]
        found[cell] = StepCell(
            cell.mode,
            workers=cell.workers,
            bits_per_second=None if cell.megabits is None else 1e6 * cell.megabits,
            bytes_per_step=sizes.get("formula", sizes["meter"]),
            compute_ms=alone["step_ms"]["median"],
            # only the mean has the exchanges of local steps in it
            step_ms=times["mean" if cell.mode.startswith("local") else "median"],
            cores=record["cores"],
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
        model = fit(list(cells.values()))
    except UserError as error:
        print(f"\nNo prediction: {error}")
        return
    errors = [abs(error) for error in model.errors(list(cells.values()))]
    print(f"\n{model.table(list(cells.values()))}")
    near = sum(error <= 10 for error in errors)
    print(f"{near} of {len(errors)} cells within 10 %; nine of ten that the fit had not seen within {model.error:.0%}")
    for name, (low, high) in model.intervals.items():
        print(f"  {name:<20}{getattr(model, name):>9.3f}  ({low:.3f} to {high:.3f})")
    ways = [cell for at, cell in cells.items() if at.workers == 4 and at.megabits is None and at.model == "lstm60k"]
    ways = sorted((way for way in ways if not way.through_server), key=lambda way: way.mode != "ddp")
    if ways:
        rows = plan(
            ways, PLANNED_WORKERS, [LINKS[name] for name in PLANNED_LINKS],
            per_host=PER_HOST, inside=LINKS["nvlink4"], links_per_host=1,
        )  # fmt: skip
        print(f"\n{PLANNED_WORKERS} workers, {PER_HOST} a host, as fast as one here and with nothing in their way:")
        print(plan_table(rows))
