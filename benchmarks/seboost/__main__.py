"""SEBOOST's own experiments, with what they had left out: schedules, equal gradient evaluations, equal time, rates.

    python -m benchmarks.seboost [FOLDER] [--tasks regression autoencoder …] [--bases sgd adam …]
    python -m benchmarks.seboost [FOLDER] --overhead
    python -m benchmarks.seboost --show [--plot curves.png]

Every arm has the same grid of rates (√10 apart) and of schedules (constant, cosine to zero), by one run each of seed 0;
while the best rate of one of them is at an end, the grid grows there for all. An arm's best choice by the loss on
held-out data is run again with other seeds, which are what is compared. A budget of gradients counts passes of a
training batch: forward and backward 1, forward 1/3, Jacobian product 2/3, those of boosts too. The budget of seconds of
an arm is the processor time that the base optimizer took for its gradients with that seed, in the run just before.
Every run is a line of ``--out``; what is there is not run again, so that a stopped benchmark goes on where it was.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.seboost.arms import BASES, EXPERIMENTS
from benchmarks.seboost.cells import overhead, run
from benchmarks.seboost.plot import plot
from benchmarks.seboost.summary import SCHEDULES, best, print_summary, read

GRID = 10**0.5
MOST_RATES = 7
Cell = dict[str, Any]


class SpentError(Exception):
    """The processor time that was given is over."""


class Results:
    """Runs that were made, in memory and in a file."""

    def __init__(self, path: Path, cpu_minutes: float) -> None:
        self.path, self.limit = path, 60 * cpu_minutes
        self.runs = read(path)

    def find(self, cell: Cell) -> Cell | None:
        """The run of a cell."""
        return next((found for found in self.runs if all(found.get(key) == cell[key] for key in cell)), None)

    def add(self, found: Cell) -> None:
        """One more, shown too."""
        self.runs.append(found)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({**found, "date": date.today().isoformat(), "torch": torch.__version__}) + "\n")
        print(" ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in found.items()), flush=True)
        if time.process_time() > self.limit:
            raise SpentError


def grid(name: str, base: str, arms: tuple[str, ...], numbers: list[int]) -> Iterator[Cell]:
    """Arms in turn at each rate and schedule."""
    for number, schedule, arm in product(numbers, SCHEDULES, arms):
        rate = rate_of(name, base, number)
        yield {"task": name, "base": base, "arm": arm, "rate": rate, "schedule": schedule, "seed": 0}


def rate_of(name: str, base: str, number: int) -> float:
    """Of the grid, around 0."""
    return float(f"{EXPERIMENTS[name].middle[base] * GRID**number:.3g}")


def experiment_of(name: str, base: str, arms: tuple[str, ...], folder: Path, results: Results) -> None:
    """The grid of the arms, and then what is best of each with other seeds; the base optimizer's comes first."""
    experiment = EXPERIMENTS[name]
    task: Any = None

    def made(cell: Cell, unit: str, budget: float) -> Cell:
        nonlocal task
        found = results.find({**cell, "unit": unit})
        if found is None:
            task = experiment.task(folder) if task is None else task
            settings = [cell[key] for key in ("base", "arm", "rate", "schedule", "seed")]
            found = {**cell, "unit": unit, **run(task, *settings, experiment.every, budget, unit)}
            results.add(found)
        return found

    numbers, missing = set[int](), set(range(-2, 2))
    while missing and len(numbers) < MOST_RATES:
        numbers |= missing
        for cell in grid(name, base, arms, sorted(missing, key=abs)):
            made(cell, "gradients", experiment.gradients)
        ends = {min(numbers): min(numbers) - 1, max(numbers): max(numbers) + 1}
        chosen = {best(results.runs, name, base, arm)[0] for arm in ("base", *arms)}
        missing = {beyond for end, beyond in ends.items() if rate_of(name, base, end) in chosen}
    for seed in range(1, 1 + experiment.seeds):
        seconds = 0.0
        for arm in ("base", *[arm for arm in arms if arm != "base"]):
            rate, schedule = best(results.runs, name, base, arm)
            cell = {"task": name, "base": base, "arm": arm, "rate": rate, "schedule": schedule, "seed": seed}
            found = made(cell, "gradients", experiment.gradients)
            if arm == "base":
                seconds = found["cpu_s"]
            else:
                made(cell, "seconds", seconds)


def measure(options: argparse.Namespace, results: Results) -> None:
    """What is missing."""
    for base, name in product(options.bases, options.tasks):
        if base not in EXPERIMENTS[name].middle:
            continue
        if options.overhead:
            found = overhead(EXPERIMENTS[name].task(options.folder), base, EXPERIMENTS[name].middle[base])
            results.add({"task": name, "base": base, "unit": "overhead", **found})
        else:
            experiment_of(name, base, ("base", "boost"), options.folder, results)
    for name in [] if options.overhead else options.tasks:
        if EXPERIMENTS[name].others and "momentum" in options.bases:
            experiment_of(name, "momentum", EXPERIMENTS[name].others, options.folder, results)


def main() -> None:
    """Measure what is missing, in the time given, and print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.seboost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, nargs="?", default=Path(os.environ.get("OVERNIGHT_DATA", ".")))
    parser.add_argument("--tasks", nargs="+", default=list(EXPERIMENTS), choices=list(EXPERIMENTS))
    parser.add_argument("--bases", nargs="+", default=list(BASES), choices=list(BASES))
    parser.add_argument("--overhead", action="store_true", help="only measure what boosts at the defaults cost")
    parser.add_argument("--cpu-minutes", type=float, default=35.0, help="of processor time, after which it stops")
    parser.add_argument("--show", action="store_true", help="only print what was measured")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw loss against rate")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/seboost.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results = Results(options.out, options.cpu_minutes)
    if not options.show:
        try:
            measure(options, results)
        except SpentError:
            print(f"{options.cpu_minutes:g} minutes of processor time are over; the same command goes on.")
    print_summary(results.runs)
    if options.plot:
        plot(results.runs, options.plot)


if __name__ == "__main__":
    main()
