"""The recommender beside the mean, damped biases and EASE; what re-feeding, depth, activation and the batch do.

    OVERNIGHT_DATA=… python -m benchmarks.recommender OUT [--parts quality refeeding shapes ladder] [--minutes 10]
    python -m benchmarks.recommender OUT --show

Every result is a line of OUT/cells.jsonl; what is there is not measured again. Quality: the small preset (``user``),
its variant by item, and the mean of what both say. Their settings were chosen on a tenth of the training ratings of
ML-100K's u1 and are the same on all sets; ``--on valid`` gives such figures. Speed and size:
benchmarks.recommender.speed and .large.
"""

import argparse
import sys
from pathlib import Path
from statistics import mean

import torch

from benchmarks.recommender.ablation import ladder, refeeding, shapes
from benchmarks.recommender.cells import Cells
from benchmarks.recommender.quality import measure
from benchmarks.recommender.sets import SETS

PARTS = ("quality", "refeeding", "shapes", "ladder")
COLUMNS = ("rmse", "mae", "recall@10", "ndcg@10", "recall@50", "ndcg@50")


def main() -> int:
    """Measure what is missing in the time given, and print all there is."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.recommender",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, help="folder of results")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--on", default="test", choices=("test", "valid"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=40, help="of the ablations")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after which no cell is begun")
    parser.add_argument("--show", action="store_true", help="only print what is there")
    options = parser.parse_args()
    cells = Cells(options.out / "cells.jsonl", 60 * options.minutes)
    if not options.show:
        torch.set_num_threads(1)
        for seed in options.seeds:
            for name in options.sets if "quality" in options.parts else ():
                measure(cells, name, options.on, seed, options.out / "said")
            if "refeeding" in options.parts:
                refeeding(cells, options.epochs, seed)
            if "shapes" in options.parts:
                shapes(cells, options.epochs, seed)
            if "ladder" in options.parts:
                ladder(cells, 6, seed)
    show(cells, options.on)
    return 0


def show(cells: Cells, on: str) -> None:
    """Tables; figures of several seeds are their means."""
    for name in SETS:
        found = cells.find(part="quality", set=name, on=on)
        if found:
            print(f"\n{name} ({on})\n{'':10}" + "".join(f"{column:>11}" for column in COLUMNS) + "  seeds")
        for arm in dict.fromkeys(cell["arm"] for cell in found):
            own = [cell for cell in found if cell["arm"] == arm]
            values = [f"{mean(c[column] for c in own):11.4f}" if column in own[0] else f"{'':11}" for column in COLUMNS]
            print(f"{arm:10}" + "".join(values) + f"{len(own):7}")
    for part in ("refeeding", "depth", "activation", "ladder"):
        for cell in cells.find(part=part):
            left = ("part", "preset", "rmse", "residual", "cpu_seconds")
            print(part, {name: value for name, value in cell.items() if name not in left},
                  "rmse", cell["rmse"] and round(cell["rmse"], 4), "residual", cell["residual"])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
