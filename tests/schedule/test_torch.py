"""The curves against torch's own schedulers, where torch has one: the same rates at every step."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from overnight.schedule import (
    Schedule,
    apply,
    constant,
    cosine,
    cosine_restarts,
    exponential,
    linear,
    multistep,
    phases,
    polynomial,
)

BATCH, STEPS = 8, 60
END = BATCH * STEPS


def optimizer() -> torch.optim.Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(2))], "lr": lr} for lr in (0.5, 0.02)]
    return torch.optim.SGD(groups)


def rates(made: torch.optim.Optimizer, scheduler: Any, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        seen += [group["lr"] for group in made.param_groups]
        made.step()
        scheduler.step()
    return seen


CASES: list[tuple[Schedule, Callable[[torch.optim.Optimizer], Any]]] = [
    (constant, partial(lr_scheduler.ConstantLR, factor=1.0)),
    (linear, partial(lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.0, total_iters=STEPS)),
    (partial(linear, end=0.3), partial(lr_scheduler.LinearLR, start_factor=1.0, end_factor=0.3, total_iters=STEPS)),
    (cosine, partial(lr_scheduler.CosineAnnealingLR, T_max=STEPS)),
    (polynomial, partial(lr_scheduler.PolynomialLR, total_iters=STEPS, power=2.0)),
    (partial(polynomial, power=0.5), partial(lr_scheduler.PolynomialLR, total_iters=STEPS, power=0.5)),
    (
        partial(cosine_restarts, period_samples=7 * BATCH),
        partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=7),
    ),
    (
        partial(cosine_restarts, period_samples=5 * BATCH, multiplier=2),
        partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=5, T_mult=2),
    ),
    (
        partial(cosine_restarts, period_samples=3 * BATCH, multiplier=3),
        partial(lr_scheduler.CosineAnnealingWarmRestarts, T_0=3, T_mult=3),
    ),
    (
        partial(multistep, milestones=(10 * BATCH, 25 * BATCH, 26 * BATCH), gamma=0.3),
        partial(lr_scheduler.MultiStepLR, milestones=[10, 25, 26], gamma=0.3),
    ),
    (
        partial(exponential, gamma=0.97, every_samples=BATCH),
        partial(lr_scheduler.ExponentialLR, gamma=0.97),
    ),
    (
        partial(exponential, gamma=0.5, every_samples=9 * BATCH, staircase=True),
        partial(lr_scheduler.StepLR, step_size=9, gamma=0.5),
    ),
]


@pytest.mark.parametrize(("schedule", "theirs"), CASES)
def test_the_same_rates_as_torch(schedule: Schedule, theirs: Callable[[torch.optim.Optimizer], Any]) -> None:
    ours, reference = optimizer(), optimizer()
    ours_rates = rates(ours, apply(ours, schedule, global_batch_size=BATCH, total_samples=END), STEPS)
    assert ours_rates == pytest.approx(rates(reference, theirs(reference), STEPS), rel=1e-6, abs=1e-12)


def test_a_warm_up_and_a_cosine_as_torch_composes_them() -> None:
    """LinearLR counts its steps from the start, ours from the end of each step, hence start_factor = 1 / 10."""
    ours, reference = optimizer(), optimizer()
    schedule = partial(cosine, warmup_samples=10 * BATCH)
    got = rates(ours, apply(ours, schedule, global_batch_size=BATCH, total_samples=END), STEPS)
    rise = lr_scheduler.LinearLR(reference, start_factor=0.1, total_iters=9)
    fall = lr_scheduler.CosineAnnealingLR(reference, T_max=50)
    expected = rates(reference, lr_scheduler.SequentialLR(reference, [rise, fall], milestones=[10]), STEPS)
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_phases_as_torch_composes_them() -> None:
    ours, reference = optimizer(), optimizer()
    schedule = partial(phases, schedules=(linear, partial(polynomial, power=2.0)), boundaries=(20 * BATCH,))
    got = rates(ours, apply(ours, schedule, global_batch_size=BATCH, total_samples=END), STEPS)
    one = lr_scheduler.LinearLR(reference, start_factor=1.0, end_factor=0.0, total_iters=20)
    two = lr_scheduler.PolynomialLR(reference, total_iters=40, power=2.0)
    expected = rates(reference, lr_scheduler.SequentialLR(reference, [one, two], milestones=[20]), STEPS)
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-12)
