"""From a tuned batch to k times as much without tuning: quality against batch, one run folder a cell.

    python -m benchmarks.large_batch OUT --app mnist-lstm --data MNIST --batches 512 2048 8192 --arms legw date
    python -m benchmarks.large_batch OUT --app gnmt-multi30k --data M30K --tune adam lamb
    python -m benchmarks.large_batch OUT --show
    python -m benchmarks.large_batch OUT --gpu mnist-lstm=MNIST ptb-small=PTB ptb-large=PTB gnmt-wmt16=WMT

An arm is RULE[:OPTIMIZER][+CONTROL]: rules base, none, linear, sqrt, legw, adam_sde, adascale, date and oracle (Adam
and Nesterov, tuned at every batch); controls equal, twice, accumulate and lanes. The base batch's own cell comes first,
unasked. Rates are tuned at the base batch only, with a declared budget, and frozen in OUT/APP/frozen.json; without
--tune they are the recipes'. What is finished is kept, what was interrupted goes on from its checkpoint.
"""

import argparse
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.large_batch.applications import APPLICATIONS, Application
from benchmarks.large_batch.arms import Arm, Cell
from benchmarks.large_batch.cells import InterruptedRunError, Settings, train_cell, tune
from benchmarks.large_batch.gpu import gpu_plan
from benchmarks.large_batch.plots import draw
from benchmarks.large_batch.table import print_tables, written
from overnight.errors import UserError


def main() -> int:
    """Tune, train what is missing, and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.large_batch",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder of run folders")
    parser.add_argument("--app", choices=sorted(APPLICATIONS))
    parser.add_argument("--data", type=Path, help="what the application reads: a folder of MNIST, or a corpus")
    parser.add_argument("--batches", type=int, nargs="*", help="the published ladder unless given")
    parser.add_argument("--arms", nargs="*", default=["legw", "date"], metavar="ARM")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument(
        "--tune", nargs="*", default=[], metavar="OPTIMIZER", help="tune at the base batch, and no more"
    )
    parser.add_argument("--trials", type=int, help="rates of one search, at most")
    parser.add_argument("--trial-epochs", type=float)
    parser.add_argument("--epochs", type=float, help="a shorter run than published, which the tables say")
    parser.add_argument("--minutes", type=float, help="after which no cell is begun")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--show", action="store_true", help="only print and draw what is finished")
    parser.add_argument("--target", type=float, help="of --app, for epochs to it: the published one unless given")
    parser.add_argument("--gpu", nargs="+", metavar="APP=DATA", help="the whole proof, on a GPU")
    parser.add_argument("--dry-run", action="store_true", help="with --gpu: only print what would be trained")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.gpu:
        for app, settings, cells, optimizers in gpu_plan(options.out, options.gpu, options.seeds, options.dry_run):
            run_all(app, settings, cells, optimizers)
    elif not options.show:
        if options.app is None or options.data is None:
            raise UserError("What is to be trained is not said.", "Give --app and --data, or --show.")
        app = APPLICATIONS[options.app]
        settings = Settings(
            options.out,
            options.data,
            options.threads,
            options.device,
            options.epochs,
            options.trials,
            options.trial_epochs,
        )
        cells = [] if options.tune else grid(app, options.batches, options.arms, options.seeds, options.epochs)
        run_all(app, settings, cells, options.tune, options.minutes)
    if not options.dry_run:
        apps = [
            replace(app, target=options.target) if options.target is not None and app.name == options.app else app
            for app in APPLICATIONS.values()
        ]
        print_tables(options.out, apps)
        for path in draw(options.out, apps):
            print(path)
    return 0


def grid(
    app: Application, batches: Iterable[int] | None, arms: Iterable[str], seeds: Iterable[int], epochs: float | None
) -> list[Cell]:
    """All cells: of every seed the base batch first, then batch by batch."""
    parsed = [Arm.parse(arm) for arm in arms]
    found = []
    for seed in seeds:
        found.append(Cell(app, Arm("base"), app.batch, seed, epochs))
        for batch in app.batches if batches is None else batches:
            for arm in parsed:
                at_base = replace(arm, rule="base", control="") if batch == app.batch else arm
                found.append(Cell(app, at_base, batch, seed, epochs))
    return list(dict.fromkeys(found))


def run_all(
    app: Application,
    settings: Settings,
    cells: Iterable[Cell],
    optimizers: Iterable[str] = (),
    minutes: float | None = None,
) -> None:
    """Tune, then train the cells; one that cannot be is named and left out."""
    end = time.monotonic() + (float("inf") if minutes is None else 60 * minutes)
    for optimizer in optimizers:
        tune(app, optimizer, settings)
    for cell in cells:
        if time.monotonic() > end:
            print("The time is up.")
            return
        began = time.monotonic()
        try:
            found = train_cell(cell, settings)
        except UserError as error:
            print(f"{app.name}, {cell.name}: {error}", flush=True)
            continue
        said = "did not train" if found["final"] is None else written(app, found["final"])
        print(f"{app.name}, {cell.name}: {said} in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (UserError, InterruptedRunError) as error:
        print(error, file=sys.stderr)
        sys.exit(2)
