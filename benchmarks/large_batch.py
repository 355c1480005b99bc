"""From a tuned batch to k times as much without tuning: quality against batch, one run folder a cell.

    python benchmarks/large_batch.py OUT --data MNIST --batches 128 512 2048 8192 --arms none linear sqrt legw

A cell is (batch, arm, seed); an arm is a scaling rule, or RULE:OPTIMIZER. Every cell sees the same number of samples. A
cell that is finished is kept, one that was interrupted goes on from its checkpoint; so the program may be killed and
started again with more cells. It prints a table of all that are finished in OUT, and writes it to OUT/cells.json.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from overnight.errors import UserError
from overnight.recipes.mnist_lstm import mnist_lstm
from overnight.train.launch import Options, train

TARGET = 0.987


def cell(folder: Path, options: argparse.Namespace, batch: int, arm: str, seed: int) -> dict[str, Any]:
    """Train one cell, or read what it gave."""
    rule, _, optimizer = arm.partition(":")
    summary = folder / "summary.json"
    if not summary.exists() or json.loads(summary.read_text())["state"] != "finished":
        run = mnist_lstm(
            options.data,
            batch_size=batch,
            micro_batch_size=micro_batch(batch, options.micro_batch),
            rule=rule,  # type: ignore[arg-type]
            optimizer=optimizer or "momentum",
            epochs=options.epochs,
            seed=seed,
        )
        run = replace(run, threads=options.threads, log_every=max(1, 1280 // batch))
        resume = (folder / "run.json").exists()
        ended = train(run, folder, Options(resume=resume, quiet=True, command=("benchmarks/large_batch.py",)))
        if ended["state"] != "finished":
            raise SystemExit(f"{folder.name}: {ended['reason']} Start the same command again to go on.")
    return read_cell(folder)


def micro_batch(batch: int, most: int) -> int:
    """The largest divisor of the batch that is not above ``most``: the result is the same, in less memory."""
    return max(size for size in range(1, min(batch, most) + 1) if batch % size == 0)


def read_cell(folder: Path) -> dict[str, Any]:
    """What a finished cell gave: final and best accuracy, and where it first reached the target."""
    summary, written = (json.loads((folder / name).read_text()) for name in ("summary.json", "run.json"))
    run, derived = written["run"], written["derived"]
    evaluations = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    reached = next((line for line in evaluations if line["accuracy"] >= TARGET), None)
    epochs = None if reached is None else reached["step"] / derived["steps_per_epoch"]
    return {
        "cell": folder.name,
        "batch": run["global_batch_size"],
        "lr": run["optimizer"]["kwargs"]["lr"],
        "warmup_steps": run["schedule"]["kwargs"]["warmup_samples"] / run["global_batch_size"],
        "steps": summary["step"],
        "accuracy": summary["final"]["accuracy"],
        "best": summary["best"]["accuracy"],
        "steps_to_target": reached and reached["step"],
        "epochs_to_target": epochs,
        "seconds": summary["seconds"],
        "threads": derived["threads"],
        "precision": derived["precision"],
    }


def print_table(cells: list[dict[str, Any]]) -> None:
    print(f"\n{'cell':<28} {'rate':>8} {'steps':>7} {'final':>8} {'best':>8} {'to 98.7 %: steps':>17} {'epochs':>7}")
    for one in cells:
        epochs = "" if one["epochs_to_target"] is None else f"{one['epochs_to_target']:.1f}"
        steps = "never" if one["steps_to_target"] is None else f"{one['steps_to_target']:,}"
        print(
            f"{one['cell']:<28} {one['lr']:>8.3g} {one['steps']:>7,} {one['accuracy']:>8.2%} {one['best']:>8.2%} "
            f"{steps:>17} {epochs:>7}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder of run folders")
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST's idx files")
    parser.add_argument("--batches", type=int, nargs="*", default=[128, 512, 2048, 8192])
    parser.add_argument("--arms", nargs="*", default=["legw"], help="RULE or RULE:OPTIMIZER")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--epochs", type=float, default=25.0)
    parser.add_argument("--micro-batch", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for seed in options.seeds:
        for batch in options.batches:
            for arm in options.arms:
                began = time.monotonic()
                name = f"{batch}-{arm.replace(':', '-')}-{seed}"
                try:
                    found = cell(options.out / name, options, batch, arm, seed)
                except UserError as error:  # a rate that does not train, or a rule that does not reach that far
                    print(f"{name}: {error}", flush=True)
                    continue
                print(f"{name}: {found['accuracy']:.2%} in {time.monotonic() - began:.0f} s", flush=True)
    finished = [read_cell(path.parent) for path in sorted(options.out.glob("*/summary.json")) if _finished(path)]
    finished.sort(key=lambda one: (one["batch"], one["cell"]))
    print_table(finished)
    (options.out / "cells.json").write_text(json.dumps(finished, indent=1) + "\n")
    return 0


def _finished(path: Path) -> bool:
    return bool(json.loads(path.read_text())["state"] == "finished")


if __name__ == "__main__":
    sys.exit(main())
