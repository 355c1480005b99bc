"""The whole proof as one command, for who has a GPU: published sizes, ladders and lengths."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks.large_batch.applications import APPLICATIONS, Application
from benchmarks.large_batch.arms import Arm, Cell
from benchmarks.large_batch.cells import Settings
from benchmarks.large_batch.optimizers import NOT_ADAPTIVE
from overnight.errors import UserError

ARMS = (
    "legw",
    "date",
    "none",
    "linear",
    "sqrt",
    "legw:lars",
    "legw:lamb",
    "adascale",
    "oracle",
    "date+equal",
    "legw+twice",
)
CONTROLS = ("legw+accumulate", "legw+lanes")
"""At one batch, the largest published one."""

Plan = tuple[Application, Settings, list[Cell], list[str]]


def gpu_plan(out: Path, given: Sequence[str], seeds: Sequence[int], dry_run: bool) -> Iterator[Plan]:
    """What is tuned and trained of each application, those that matter most first.

    Args:
        out: folder of run folders.
        given: APP=DATA of each.
        seeds: three where only one is given.
        dry_run: print it, and yield nothing.

    Raises:
        UserError: for an application that there is not, or without a GPU.
    """
    seeds = list(seeds) if len(seeds) > 1 else [0, 1, 2]
    for item in given:
        name, _, data = item.partition("=")
        if name not in APPLICATIONS or not data:
            raise UserError(f"{item!r} is no APP=DATA.", f"Applications are {', '.join(APPLICATIONS)}.")
        if not dry_run and not torch.cuda.is_available():
            raise UserError("There is no GPU.", "Leave out --gpu, or look with --dry-run.")
        app = APPLICATIONS[name]
        cells = gpu_cells(app, seeds)
        optimizers = [app.optimizer, "lars", "lamb"] if app.tuned else []
        if dry_run:
            print(f"{name}: tune {', '.join(optimizers) or 'nothing'} at batch {app.batch}, then {len(cells)} runs:")
            print(f"  {', '.join(cell.name for cell in cells)}")
            continue
        yield app, Settings(out, Path(data), None, "cuda"), cells, optimizers


def gpu_cells(app: Application, seeds: Sequence[int]) -> list[Cell]:
    """The base batch and every arm at every batch, all seeds; controls at the largest published batch."""
    cells = []
    for seed in seeds:
        cells.append(Cell(app, Arm("base"), app.batch, seed))
        cells += [
            Cell(app, Arm.parse(arm), batch, seed)
            for arm in ARMS
            if arm != "adascale" or app.optimizer in NOT_ADAPTIVE
            for batch in (*app.batches, *app.beyond)
        ]
        cells += [
            Cell(app, Arm.parse(arm), app.batches[-1], seed)
            for arm in CONTROLS
            if not arm.endswith("+lanes") or app.name.startswith("ptb")
        ]
    return cells
