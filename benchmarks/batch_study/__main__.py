"""Quality against batch at equal samples: LARS, LAMB, Nesterov momentum and AdamW, tuned at the base batch only.

    OVERNIGHT_DATA=… python -m benchmarks.batch_study OUT [--corpus DIR] [--applications cifar mnist bert sst2]
    python -m benchmarks.batch_study OUT --show [--plot OUT/study.png]

Every optimizer has the same number of trials for its rate at the base batch, on data held out of training; the result
is frozen in OUT/APPLICATION/tuned.json. At larger batches nothing is tuned: the rate follows LEGW (√k, the same steps
of warm-up, at most 30 % of the run), or of the arm momentum:linear the batch. A cell is a run folder; those that are
finished are kept, an interrupted one goes on. ``--times 4`` trains four times as long, in another OUT. sst2 fine-tunes
the checkpoints of bert. Speed and memory of the same models: python -m benchmarks.batch_study.speed
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.batch_study.applications import APPLICATIONS, OPTIMIZERS, Application
from benchmarks.batch_study.cells import read_cells, setting_at, train_cell
from benchmarks.batch_study.finetune import finetune
from benchmarks.batch_study.plot import plot
from benchmarks.batch_study.table import print_tables
from benchmarks.batch_study.tuning import tuned
from overnight.errors import UserError
from overnight.train.host import keep_freed_memory


def main() -> int:
    """Train what is missing in the time given, and print all there is."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.batch_study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [*APPLICATIONS, "sst2"]
    parser.add_argument("out", type=Path, help="folder of run folders")
    parser.add_argument("--applications", nargs="+", default=names, choices=names)
    parser.add_argument("--arms", nargs="+", default=[*OPTIMIZERS, "momentum:linear"], metavar="OPTIMIZER[:RULE]")
    parser.add_argument("--batches", nargs="+", type=int, default=None, help="of the ladder; all of them unless given")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--times", type=float, default=1.0, help="so many times the samples")
    parser.add_argument("--corpus", type=Path, default=None, help="made by `overnight prepare --bert` (bert, sst2)")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no cell is begun")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--show", action="store_true", help="only print what is there")
    parser.add_argument("--plot", type=Path, default=None, metavar="PNG")
    options = parser.parse_args()
    if not options.show:
        torch.set_num_threads(1)
        keep_freed_memory()
        work(options, time.monotonic() + 60 * options.minutes)
    cells = read_cells(options.out)
    print_tables(cells, options.out)
    (options.out / "cells.json").write_text(json.dumps(cells, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        plot(cells, options.plot)
    return 0


def work(options: argparse.Namespace, end: float) -> None:
    """All cells, seed by seed."""
    data = Path(os.environ["OVERNIGHT_DATA"])
    folders = {"cifar": data / "cifar10_jpeg", "mnist": data / "mnist", "bert": options.corpus}
    for seed in options.seeds:
        for name in options.applications:
            if name == "sst2":
                fine_tune_all(options, data / "sst2", seed, end)
                continue
            if folders[name] is None:
                raise UserError("bert needs a corpus.", "Give --corpus, made by `overnight prepare --bert`.")
            one = APPLICATIONS[name]
            one = replace(one, samples=round(one.samples * options.times))
            if not grid(options, one, folders[name], seed, end):
                print("The time is up.")
                return


def grid(options: argparse.Namespace, one: Application, data: Path, seed: int, end: float) -> bool:
    """The cells of an application and a seed; False where the time was up."""
    folder = options.out / one.name
    for batch in options.batches or one.batches:
        for arm in options.arms:
            optimizer, _, rule = arm.partition(":")
            if rule and batch == one.base:  # the same cell as without a rule
                continue
            if time.monotonic() > end:
                return False
            lr = tuned(one, optimizer, folder, data, options.device)["lr"]
            setting = setting_at(one, arm, lr, batch, seed, tuning=False)
            name = f"{arm.replace(':', '_')}-{batch}-{seed}"
            train_cell(one, arm, setting, folder / name, data, options.device)
    return True


def fine_tune_all(options: argparse.Namespace, sst2: Path, seed: int, end: float) -> None:
    """No checkpoint, then every finished one of bert of this seed: those of the base and the largest batch first."""
    found = {path.parent.name: json.loads(path.read_text()) for path in (options.out / "bert").glob("*/cell.json")}
    kept = [name for name, cell in found.items() if cell["seed"] == seed and not (cell["tuning"] or cell["diverged"])]
    batches = sorted({found[name]["batch"] for name in kept})
    order = {batch: place for place, batch in enumerate(batches[:1] + batches[:0:-1])}
    names = sorted(kept, key=lambda name: (order[found[name]["batch"]], name))
    if not names:
        return
    for name in (None, *names):
        if time.monotonic() > end:
            return
        finetune(options.out, name, options.out / "bert" / names[0], sst2, seed, options.device)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
