"""A cell: one training run in a folder of its own, or what it gave."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.batch_study.applications import Application, Setting
from overnight.errors import UserError
from overnight.scaling import Hyperparameters, rules
from overnight.train.launch import Options, train
from overnight.train.run import Run

LONGEST_WARMUP = 0.3
"""Share of a run."""


def setting_at(application: Application, arm: str, lr: float, batch: int, seed: int, *, tuning: bool) -> Setting:
    """The base batch's rate at another batch, by the rule of the arm (OPTIMIZER or OPTIMIZER:RULE; LEGW)."""
    optimizer, _, rule = arm.partition(":")
    baseline = Hyperparameters(lr=lr, global_batch_size=application.base)
    scaled = getattr(rules, rule or "legw")(baseline, global_batch_size=batch).hyperparameters.lr
    plain = Setting(optimizer, batch, scaled, application.warmup_steps, application.samples, seed, tuning)
    return replace(plain, warmup_steps=min(application.warmup_steps, math.floor(LONGEST_WARMUP * plain.steps)))


def make(folder: Path, metric: str, said: dict[str, Any], run: Callable[[], Run], device: str) -> dict[str, Any]:
    """Train, unless that was done; an interrupted run goes on from its checkpoint.

    Args:
        folder: of the run; its ``cell.json`` is what is returned.
        metric: name of the score.
        said: what the cell is.
        run: makes it.
        device: see ``Options``.
    """
    path = folder / "cell.json"
    if not path.is_file():
        began, why, final = time.process_time(), None, None
        resume = (folder / "run.json").is_file()
        try:
            made = replace(run(), threads=1, log_every=max(1, said["steps"] // 20))
            options = Options(device=device, quiet=True, resume=resume, command=("benchmarks.batch_study",))
            ended = train(made, folder, options)
            if ended["state"] == "stopped":
                raise SystemExit(f"{folder}: {ended['reason']} Start the same command again to go on.")
            final = ended["final"]
        except UserError as error:
            if "finite" not in str(error):
                raise
            why = str(error)
        if final is not None and final["loss"] is None:
            why = "The loss is not finite."
        found = {
            **said, "score": None if final is None else final[metric], "low": final and final["low"],
            "high": final and final["high"], "loss": final and final["loss"], "diverged": why,
            "cpu_seconds": round(time.process_time() - began, 2), "resumed": resume,
        }  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        score = "diverged" if found["score"] is None else f"{found['score']:.2%}"
        print(f"{folder.parent.name}/{folder.name}: {score}, {found['cpu_seconds']:.0f} s of CPU", flush=True)
    cell: dict[str, Any] = json.loads(path.read_text())
    return cell


def train_cell(
    application: Application, arm: str, setting: Setting, folder: Path, data: Path, device: str
) -> dict[str, Any]:
    """A cell of the grid or a trial of tuning."""
    said = {"application": application.name, "arm": arm, "steps": setting.steps, **asdict(setting)}
    return make(folder, application.metric, said, lambda: application.run(setting, data), device)


def read_cells(out: Path) -> list[dict[str, Any]]:
    """All that are finished."""
    return [json.loads(path.read_text()) for path in sorted(out.glob("*/*/cell.json"))]
