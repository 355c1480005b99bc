"""A run that DATE adapts, and what it leaves."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from train.toys import toy

from overnight.scaling import DATE, Hyperparameters
from overnight.train.launch import Options, train
from overnight.train.run import Run

WHEN = ("seconds", "tokens_per_s")


def adapting(adapt: dict[str, Any] | None = None, **changes: Any) -> Run:
    """Eight lanes in micro-batches of one, from a baseline of two."""
    settings = {"measure_every": 1, "snapshot_every": 4} | (adapt or {})
    baseline = partial(Hyperparameters, lr=0.02, global_batch_size=2, warmup_samples=8)
    component = partial(DATE, baseline=baseline, **settings)
    changed = toy(**{"steps": 40, "micro_batch_size": 1, "optimizer__lr": 0.02, **changes})
    return changed._with("adapt", component)


def decisions(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]


def metrics(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in WHEN} for line in lines]


def train_adapting(folder: Path, adapt: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The run of a rank."""
    torch.set_num_threads(1)
    return train(adapting(adapt, **changes), folder, Options(quiet=True))
