"""One worker: trains its part of a session's cells, and writes what it saw. Started on every host by ``session``."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.parallel import measures
from benchmarks.parallel.asynchronous import AsyncTrainer
from benchmarks.parallel.cells import Cell
from benchmarks.parallel.jobs import Job, job
from benchmarks.parallel.modes import Way, alone, optimizer, samples_words, way
from overnight.comm import join_ranks
from overnight.optim.row_gradients import clip_grad_norm_
from overnight.train.host import keep_freed_memory


class Trainer:
    """One worker's model, optimizer and place in the data, in all ways but the asynchronous ones."""

    def __init__(self, made: Job, chosen: Way, sparse: bool) -> None:
        self.job, self.way, self.step, self.factor = made, chosen, 0, 0.1
        self.optimizer = optimizer(made, sparse)
        self.carry: Mapping[str, Tensor] = made.task.initial_carry(made.batches(0).input_TB.shape[1])  # type: ignore[operator]
        self.parameters = list(made.task.parameters())
        self.formula_bytes = 0.0

    def __call__(self) -> float:
        """One step at ``factor`` of the peak rate; its seconds."""
        began = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = self.job.lr * self.factor
        loss = self.way.strategy.module(self.job.batches(self.step), self.carry)
        (loss.total if loss.objective is None else loss.objective).div(loss.count).backward()
        clip_grad_norm_(self.parameters, self.job.max_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.carry = loss.carry
        self.step += 1
        self.way.strategy.after_update()
        if self.way.formula is not None:
            self.formula_bytes += self.way.formula() / self.way.period
        return time.perf_counter() - began

    def close(self) -> None:
        """Give up the exchange."""
        self.way.strategy.close()


def main() -> None:
    """Train this rank's part of the session whose file is named."""
    session = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(sys.argv[1]).parent
    rank, workers, place = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "PLACE"))
    torch.set_num_threads(1)
    keep_freed_memory()
    cells = [Cell(**plain) for plain in session["cells"]]
    first, timeout = cells[0], session["timeout"]
    if first.workers > 1:
        join_ranks("gloo", timeout)
    sampled = samples_words(first.mode)
    corpus = None if session["corpus"] is None else Path(session["corpus"])
    serving = first.mode.startswith("async")

    def new() -> Job:
        number = place if first.kind == "crowd" else max(0, rank - serving)
        return job(first.model, number, first.workers, first.seed, sampled, corpus, session["tiny"])

    made = new()
    trainer: Trainer | AsyncTrainer
    if serving:
        served = new() if first.kind == "crowd" else None
        trainer = AsyncTrainer(first.mode, made, rank, workers - 1, first.seed, timeout, served)
    else:
        chosen = alone(made.task) if first.workers == 1 else way(first.mode, made, first.model, first.seed, timeout)
        trainer = Trainer(made, chosen, sampled)
    try:
        for cell in cells:
            found = _measure(trainer, cell, session, folder)
            found["tokens_per_step"] = made.tokens_per_step
            (folder / f"{cell.name}.{place}.json").write_text(json.dumps(found))
        measures.agree(0.0)  # a server must not end before its workers have
    finally:
        trainer.close()
        if first.workers > 1:
            dist.destroy_process_group()


def _measure(trainer: Trainer | AsyncTrainer, cell: Cell, session: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    if isinstance(trainer, AsyncTrainer):
        trainer.rates(lambda: 0.1)
        for _ in range(3 if cell.kind in ("speed", "crowd") and trainer.worker is not None else 0):
            trainer()
    elif cell.kind in ("speed", "crowd"):
        for _ in range(trainer.way.warm_up if trainer.step == 0 else 1):
            trainer()
        trainer.way.strategy.before_checkpoint()  # local steps begin a period
    if cell.kind == "crowd":
        _all_here(folder, cell)
        return measures.crowd(
            trainer, 1 if isinstance(trainer, AsyncTrainer) else trainer.way.period, session["seconds"]
        )
    measures.agree(0.0)
    if os.environ["RANK"] == "0":
        _throttled(folder, cell.name)
    measures.agree(0.0)
    if cell.kind == "speed":
        if isinstance(trainer, AsyncTrainer):
            return measures.async_speed(trainer, session["seconds"])
        return measures.speed(trainer, session["seconds"])
    steps = None
    if cell.kind == "tokens":
        steps = max(1, session["tokens"] // (trainer.job.tokens_per_step * cell.workers))
    if isinstance(trainer, AsyncTrainer):
        return measures.async_quality(trainer, steps, session["train_seconds"], cell.workers)
    return measures.quality(trainer, steps, session["train_seconds"])


def _throttled(folder: Path, name: str) -> None:
    """Wait until whoever made the network has set this cell's links."""
    (folder / f"{name}.wanted").touch()
    while not (folder / f"{name}.set").exists():
        time.sleep(0.02)


def _all_here(folder: Path, cell: Cell) -> None:
    """Wait for the others, with whom this worker has no group."""
    (folder / f"{cell.name}.{os.environ['PLACE']}.here").touch()
    while not all((folder / f"{cell.name}.{place}.here").exists() for place in range(cell.workers)):
        time.sleep(0.02)


if __name__ == "__main__":
    main()
