"""Time, bytes and quality of one worker's steps."""

import os
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from benchmarks.parallel.asynchronous import AsyncTrainer
    from benchmarks.parallel.worker import Trainer

COUNTER = Path("/sys/class/net/eth0/statistics/tx_bytes")
LEAST_STEPS, MOST_STEPS = 2, 200
WARM_UP = 0.02
"""Share of a training of which the rate rises."""


def agree(value: float) -> float:
    """Rank 0's, once all ranks have come here."""
    if not dist.is_initialized():
        return value
    shared = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(shared, 0)
    dist.barrier()
    return shared.item()


def sent() -> int:
    """Bytes that this host's interface has sent; 0 outside of a namespace."""
    return int(COUNTER.read_text()) if COUNTER.exists() else 0


def times_of(each: list[float]) -> dict[str, Any]:
    """Milliseconds of steps."""
    quarters = statistics.quantiles(each, n=4) if len(each) > 1 else [each[0]] * 3
    return {
        "median": 1e3 * statistics.median(each),
        "quartiles": [1e3 * quarters[0], 1e3 * quarters[2]],
        "mean": 1e3 * statistics.mean(each),
    }


def speed(trainer: "Trainer", seconds: float) -> dict[str, Any]:
    """Steps for so many seconds, and a few at least."""
    meter = trainer.way.strategy.meter
    if meter is not None:
        meter.read()
    trainer.factor, trainer.formula_bytes = 0.1, 0.0
    agree(0.0)
    before, began, each = sent(), time.monotonic(), list[float]()
    done = 0.0
    while done == 0.0:
        each += [trainer() for _ in range(trainer.way.period)]
        done = _shared(_enough(each, time.monotonic() - began, seconds))
    steps = len(each)
    sizes = {"interface": (sent() - before) / steps}
    found: dict[str, Any] = {"steps": steps, "step_ms": times_of(each), "bytes_per_step": sizes}
    if meter is not None:
        traffic = meter.read()
        sizes["meter"] = traffic.wire_bytes / steps
        found |= {
            "waiting_ms": 1e3 * traffic.waiting_seconds / steps,
            "exchanging_ms": 1e3 * traffic.busy_seconds / steps,
            "messages": sum(traffic.calls.values()) / steps,
        }
    if trainer.way.formula is not None:
        sizes["formula"] = trainer.formula_bytes / steps
    return found


def crowd(trainer: "Trainer | AsyncTrainer", period: int, seconds: float) -> dict[str, Any]:
    """Steps for so many seconds, in whole periods, of a worker that has nothing to exchange."""
    began, each = time.monotonic(), list[float]()
    while not each or time.monotonic() - began < seconds:
        each += [trainer() for _ in range(period)]
    return {"steps": len(each), "step_ms": times_of(each)}


def async_speed(trainer: "AsyncTrainer", seconds: float) -> dict[str, Any]:
    """The same of a worker that goes at its own pace; of the server its staleness."""
    worker = trainer.worker
    if worker is None:
        agree(0.0)
        return {"staleness": trainer.staleness()}
    before, waited = (worker.sent_bytes, worker.received_bytes, sent()), worker.waiting_seconds
    began, each = time.monotonic(), list[float]()
    while not _enough(each, time.monotonic() - began, seconds):
        each.append(trainer())
    steps = len(each)
    found = {
        "steps": steps,
        "step_ms": times_of(each),
        "bytes_per_step": {
            "interface": (sent() - before[2]) / steps,
            "meter": (worker.sent_bytes - before[0]) / steps,
            "received": (worker.received_bytes - before[1]) / steps,
        },
        "waiting_ms": 1e3 * (worker.waiting_seconds - waited) / steps,
    }
    agree(0.0)
    return found


def quality(trainer: "Trainer", steps: int | None, seconds: float) -> dict[str, Any]:
    """A whole training, of so many steps or else seconds, with a rate that rises for a moment and falls to 0."""
    began, start, before = time.monotonic(), trainer.step, sent()
    done = 0.0
    while done < 1.0:
        trainer.factor = rate(done)
        trainer()
        if (trainer.step - start) % trainer.way.period == 0:
            passed = (time.monotonic() - began) / seconds
            done = _shared(passed) if steps is None else (trainer.step - start) / steps
    took, made = time.monotonic() - began, trainer.step - start
    trainer.way.strategy.before_checkpoint()
    found = _trained(made, took, sent() - before, made * trainer.job.tokens_per_step)
    _evaluate(trainer.job.evaluate, trainer.job.task, found)
    return found


def async_quality(trainer: "AsyncTrainer", steps: int | None, seconds: float, workers: int) -> dict[str, Any]:
    """The same of a worker that goes at its own pace: all workers' pushes are as many as steps of all."""
    began, before = time.monotonic(), sent()

    def done() -> float:
        return (time.monotonic() - began) / seconds if steps is None else trainer.pushes / (steps * workers)

    trainer.rates(lambda: rate(min(done(), 1.0)))
    if trainer.server is not None and steps is not None:
        trainer.server.limit = trainer.pushes + steps * workers
    agree(0.0)  # the limit is set
    while trainer.worker is not None and trainer.worker.ended is None and (steps is not None or done() < 1.0):
        trainer()
    made, took = trainer.step, time.monotonic() - began
    agree(0.0)
    found = _trained(made, took, sent() - before, made * trainer.job.tokens_per_step)
    if trainer.server is not None:
        trainer.server.end()
        found["staleness"] = trainer.staleness()
        _evaluate(trainer.job.evaluate, trainer.job.task, found)
    return found


def rate(done: float) -> float:
    """Share of the peak rate at this share of a training."""
    return min(done / WARM_UP + 0.01, 1.0 - done)


def _trained(steps: int, seconds: float, size: int, tokens: int) -> dict[str, Any]:
    sizes = {"interface": size / max(1, steps)}
    times = {"mean": 1e3 * seconds / max(1, steps)}
    return {"steps": steps, "seconds": seconds, "step_ms": times, "bytes_per_step": sizes, "tokens": tokens}


def _evaluate(evaluate: Any, task: Any, found: dict[str, Any]) -> None:
    if os.environ["RANK"] == "0" and evaluate is not None:
        found["quality"] = evaluate(task.model)


def _shared(value: float) -> float:
    """Rank 0's, by one small broadcast."""
    if not dist.is_initialized():
        return float(value)
    shared = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(shared, 0)
    return shared.item()


def _enough(each: list[float], passed: float, seconds: float) -> bool:
    return (len(each) >= LEAST_STEPS and passed >= seconds) or len(each) >= MOST_STEPS
