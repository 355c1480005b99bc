"""One training run until its budget is spent, and what a boost costs beside the steps before it."""

import math
import time
from statistics import median
from typing import Any

from benchmarks.seboost.arms import build
from benchmarks.seboost.tasks import Task
from overnight.optim import SEBoost

FORWARD, PRODUCT = 1 / 3, 2 / 3
"""What a forward pass and a Jacobian product count for, where forward and backward together are 1."""


def run(
    task: Task, base: str, arm: str, rate: float, schedule: str, seed: int, every: int, budget: float, unit: str
) -> dict[str, Any]:
    """Train until ``budget`` of ``unit`` is spent: gradients, or seconds of processor time. The schedule spans it."""
    model, optimizer = build(task, base, arm, rate, seed, every)
    spent = {"gradients": 0.0, "seconds": 0.0}
    steps, accepted, boosts, seen = 0, 0, 0, 0
    while spent[unit] < budget:
        batch = task.batch(seed, steps)
        started = time.process_time()
        factor = 1.0 if schedule == "constant" else 0.5 * (1 + math.cos(math.pi * spent[unit] / budget))
        for group in optimizer.param_groups:
            group["lr"] = rate * factor
        loss = task.loss(model, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        spent["seconds"] += time.process_time() - started
        last = optimizer.last if isinstance(optimizer, SEBoost) else None
        if last is not None and last.outer != seen:
            boosts, seen = boosts + 1, last.outer
            accepted += last.accepted
            spent["gradients"] += last.gradients + FORWARD * last.forwards + PRODUCT * last.products
        spent["gradients"] += 1
        steps += 1
        if steps % 25 == 0 and not math.isfinite(float(loss.detach())):
            break
    held_out, test = task.measure(model, "held_out"), task.measure(model, "test")
    return {
        "held_out": held_out[0], "held_out_wrong": held_out[1], "test": test[0], "test_wrong": test[1], "steps": steps,
        "gradients": round(spent["gradients"], 1), "cpu_s": spent["seconds"], "boosts": boosts, "accepted": accepted,
    }  # fmt: skip


def overhead(task: Task, base: str, rate: float, rounds: int = 8) -> dict[str, float]:
    """Processor time of a boost at the defaults over that of the l steps before it: medians, once the ring is full."""
    model, optimizer = build(task, base, "boost", rate, 0, 200)
    assert isinstance(optimizer, SEBoost)
    steps, boosts, gradients = [], [], []
    for number in range(10 + rounds):
        for step in range(2 if number < 10 else 10):
            batch = task.batch(0, 10 * number + step)
            started = time.process_time()
            optimizer.zero_grad()
            task.loss(model, batch).backward()
            optimizer.step()
            steps.append(time.process_time() - started)
        pair = task.boost_batch(0, 2 * number), task.boost_batch(0, 2 * number + 1)
        started = time.process_time()
        found = optimizer.boost(*pair)
        boosts.append(time.process_time() - started)
        gradients.append(found.gradients + FORWARD * found.forwards)
    step_s, boost_s = median(steps), median(boosts[10:])
    return {
        "weights": sum(p.numel() for p in model.parameters()), "cpu_ms_a_step": 1000 * step_s,
        "cpu_ms_a_boost": 1000 * boost_s, "gradients_a_boost": median(gradients[10:]),
        "percent_of_gradients": 100 * median(gradients[10:]) / optimizer.every,
        "percent_of_cpu": 100 * boost_s / (optimizer.every * step_s),
    }  # fmt: skip
