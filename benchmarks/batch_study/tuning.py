"""The rate at the base batch: the same number of trials for every optimizer, then frozen."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.batch_study.applications import Application
from benchmarks.batch_study.cells import setting_at, train_cell

TRIALS, SEED = 4, 100
"""Of each optimizer; the seed is scored nowhere else."""


def search(centre: float, score: Callable[[float], float]) -> dict[float, float]:
    """Scores of a quarter, once and four times the centre, and of one more: four times further out where the best is at
    an end, else half way (in the logarithm) to the better neighbour.

    >>> list(search(1.0, lambda lr: -abs(lr - 3)))
    [0.25, 1.0, 4.0, 16.0]
    >>> list(search(1.0, lambda lr: -abs(lr - 1.5)))
    [0.25, 1.0, 4.0, 0.5]
    """
    found = {lr: score(lr) for lr in (centre / 4, centre, centre * 4)}
    low, middle, high = found
    best = max(found, key=lambda lr: found[lr])
    if best == middle:
        last = middle / 2 if found[low] >= found[high] else middle * 2
    else:
        last = best / 4 if best == low else best * 4
    found[last] = score(last)
    return found


def tuned(application: Application, optimizer: str, folder: Path, data: Path, device: str) -> dict[str, Any]:
    """Rate and trials of an optimizer, from the frozen file or by training.

    Raises:
        SystemExit: the file is of other settings.
    """
    path = folder / "tuned.json"
    declared = {
        "base": application.base,
        "samples": application.samples,
        "warmup_steps": application.warmup_steps,
        "trials": TRIALS,
        "seed": SEED,
        "centres": dict(application.centres),
    }
    frozen = json.loads(path.read_text()) if path.is_file() else {"declared": declared, "optimizers": {}}
    if frozen["declared"] != declared:
        raise SystemExit(f"{path} was tuned for other settings: take another folder.")
    if optimizer not in frozen["optimizers"]:

        def score(lr: float) -> float:
            setting = setting_at(application, optimizer, lr, application.base, SEED, tuning=True)
            cell = train_cell(application, optimizer, setting, folder / f"tune-{optimizer}-{lr:g}", data, device)
            return -1.0 if cell["diverged"] else float(cell["score"])

        trials = search(application.centres[optimizer], score)
        best = max(trials, key=lambda lr: trials[lr])
        # another process may have tuned another optimizer meanwhile
        frozen = json.loads(path.read_text()) if path.is_file() else frozen
        frozen["optimizers"][optimizer] = {"lr": best, "trials": {f"{lr:g}": got for lr, got in trials.items()}}
        path.write_text(json.dumps(frozen, indent=1) + "\n", encoding="utf-8")
    found: dict[str, Any] = frozen["optimizers"][optimizer]
    return found
