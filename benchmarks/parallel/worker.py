"""One worker: trains its part of a session's cells, and writes what it saw. Started on every host by ``session``."""

import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.parallel.cells import Cell
from benchmarks.parallel.jobs import Job, job
from benchmarks.parallel.modes import Way, alone, optimizer, samples_words, way
from overnight.comm import join_ranks
from overnight.optim.row_gradients import clip_grad_norm_
from overnight.train.host import keep_freed_memory

COUNTER = Path("/sys/class/net/eth0/statistics/tx_bytes")
LEAST_STEPS, MOST_STEPS = 3, 200
WARM_UP = 0.02
"""Share of a training of which the rate rises."""


class Trainer:
    """One worker's model, optimizer and place in the data."""

    def __init__(self, made: Job, chosen: Way, sparse: bool) -> None:
        self.job, self.way, self.step = made, chosen, 0
        self.optimizer = optimizer(made, sparse)
        self.carry: Mapping[str, Tensor] = made.task.initial_carry(made.batches(0).input_TB.shape[1])  # type: ignore[operator]
        self.parameters = list(made.task.parameters())
        self.formula_bytes = 0.0

    def __call__(self, factor: float = 1.0) -> float:
        """One step, at this share of the peak rate; its seconds."""
        began = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = self.job.lr * factor
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


def agree(value: float) -> float:
    """Rank 0's."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(shared, 0)
    return shared.item()


def sent() -> int:
    """Bytes that this host's interface has sent; 0 outside of a namespace."""
    return int(COUNTER.read_text()) if COUNTER.exists() else 0


def speed(trainer: Trainer, seconds: float) -> dict[str, Any]:
    """Steps for so many seconds, and a few at least."""
    meter = trainer.way.strategy.meter
    if meter is not None:
        meter.read()
    trainer.formula_bytes = 0.0
    agree(0.0)
    before, began, each = sent(), time.monotonic(), []
    while agree(float(bool(each) and _enough(each, time.monotonic() - began, seconds))) == 0.0:
        each += [trainer(0.1) for _ in range(trainer.way.period)]
    steps = len(each)
    quarters = statistics.quantiles(each, n=4) if steps > 1 else [each[0]] * 3
    found = {
        "steps": steps,
        "step_ms": {
            "median": 1e3 * statistics.median(each),
            "quartiles": [1e3 * quarters[0], 1e3 * quarters[2]],
            "mean": 1e3 * statistics.mean(each),
        },
        "bytes_per_step": {"interface": (sent() - before) / steps},
    }  # fmt: skip
    if meter is not None:
        traffic = meter.read()
        found["bytes_per_step"]["meter"] = traffic.wire_bytes / steps
        found |= {
            "waiting_ms": 1e3 * traffic.waiting_seconds / steps,
            "exchanging_ms": 1e3 * traffic.busy_seconds / steps,
        }
    if trainer.way.formula is not None:
        found["bytes_per_step"]["formula"] = trainer.formula_bytes / steps
    return found


def _enough(each: list[float], passed: float, seconds: float) -> bool:
    return (len(each) >= LEAST_STEPS and passed >= seconds) or len(each) >= MOST_STEPS


def quality(trainer: Trainer, steps: int | None, seconds: float) -> dict[str, Any]:
    """A whole training, of so many steps or else seconds, with a rate that rises for a moment and falls to 0."""
    began, start, before = time.monotonic(), trainer.step, sent()
    done = 0.0
    while done < 1.0:
        trainer(min(done / WARM_UP + 0.01, 1.0 - done))
        if (trainer.step - start) % trainer.way.period == 0:
            passed = (time.monotonic() - began) / seconds if steps is None else (trainer.step - start) / steps
            done = agree(passed) if steps is None else passed
    took, made = time.monotonic() - began, trainer.step - start
    trainer.way.strategy.before_checkpoint()
    found: dict[str, Any] = {
        "steps": made,
        "seconds": took,
        "step_ms": {"mean": 1e3 * took / made},
        "bytes_per_step": {"interface": (sent() - before) / made},
        "tokens": made * trainer.job.tokens_per_step,
    }
    if int(os.environ["RANK"]) == 0 and trainer.job.evaluate is not None:
        found["quality"] = trainer.job.evaluate(trainer.job.task.model)  # type: ignore[arg-type]
    return found


def main() -> None:
    session = json.loads(Path(sys.argv[1]).read_text())
    folder = Path(sys.argv[1]).parent
    rank, workers = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    keep_freed_memory()
    cells = [Cell(**plain) for plain in session["cells"]]
    first, tiny = cells[0], session["tiny"]
    if workers > 1:
        join_ranks("gloo", session["timeout"])
    sampled = samples_words(first.mode)
    corpus = None if session["corpus"] is None else Path(session["corpus"])
    made = job(first.model, rank, workers, first.seed, sampled, corpus, tiny)
    chosen = alone(made.task) if workers == 1 else way(first.mode, made, first.model, first.seed, session["timeout"])
    trainer = Trainer(made, chosen, sampled)
    try:
        for cell in cells:
            if cell.kind == "speed":
                for _ in range(chosen.warm_up if trainer.step == 0 else chosen.period):
                    trainer(0.1)
            agree(0.0)
            if rank == 0:
                _throttled(folder, cell.name)
            agree(0.0)
            if cell.kind == "speed":
                found = speed(trainer, session["seconds"])
            else:
                steps = max(1, session["tokens"] // (made.tokens_per_step * workers)) if cell.kind == "tokens" else None
                found = quality(trainer, steps, session["train_seconds"])
            found["tokens_per_step"] = made.tokens_per_step
            (folder / f"{cell.name}.{rank}.json").write_text(json.dumps(found))
    finally:
        chosen.strategy.close()
        if workers > 1:
            dist.destroy_process_group()


def _throttled(folder: Path, name: str) -> None:
    """Wait until whoever made the network has set this cell's links."""
    (folder / f"{name}.wanted").touch()
    while not (folder / f"{name}.set").exists():
        time.sleep(0.02)


if __name__ == "__main__":
    main()
