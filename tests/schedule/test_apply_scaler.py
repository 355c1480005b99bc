"""A step that a GradScaler skipped does not move the rate; a second call for one update is still refused."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch.amp import GradScaler

from overnight.schedule import ProgressLR, apply, linear

TWICE = r"called without an optimizer\.step\(\) since its last call"
KINDS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "loop": partial(torch.optim.SGD, momentum=0.9, foreach=False),
    "foreach": partial(torch.optim.AdamW, foreach=True),
    "fused": partial(torch.optim.AdamW, fused=True),  # which takes the scaler's verdict itself
}
# what comes between scaler.step and the next batch, in the orders in which people write it
ORDERS = {
    "update, schedule, zero": ("update", "schedule", "zero"),
    "schedule, update, zero": ("schedule", "update", "zero"),
    "update, zero, schedule": ("update", "zero", "schedule"),
    "zero, update, schedule": ("zero", "update", "schedule"),
}


class Training:
    """A weight, its optimizer, a real GradScaler on the CPU, and a schedule."""

    def __init__(self, kind: str, tell: bool, **settings: Any) -> None:
        self.weight = torch.nn.Parameter(torch.ones(4))
        self.optimizer = KINDS[kind]([self.weight], lr=1.0)
        self.scaler = GradScaler("cpu", init_scale=1024.0, growth_interval=3)
        self.scheduler: ProgressLR = apply(
            self.optimizer,
            linear,
            global_batch_size=10,
            total_samples=1000,
            scaler=self.scaler if tell else None,
            **settings,
        )

    def step(self, order: tuple[str, ...], overflow: bool, times: int = 1) -> None:
        loss = (self.weight * (float("inf") if overflow else 1.0)).sum()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        for what in order:
            if what == "update":
                self.scaler.update()
            elif what == "zero":
                self.optimizer.zero_grad()
            else:
                for _ in range(times):
                    self.scheduler.step()

    @property
    def rate(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])


CASES = [(kind, order, True) for kind in KINDS for order in ORDERS]
# untold, and with the gradients gone, nothing is left by which to know it: see the test after the next
CASES += [(kind, order, False) for kind, order, _ in CASES if kind == "fused" or not order.endswith("schedule")]


@pytest.mark.parametrize(("kind", "order", "tell"), CASES)
def test_skipped_steps_do_not_move_the_rate(kind: str, order: str, tell: bool) -> None:
    training = Training(kind, tell)
    made = 0
    overflows = [True, False, True, True, False, False, False, False, True, False]
    for overflow in overflows:
        weight = training.weight.detach().clone()
        training.step(ORDERS[order], overflow)
        made += not overflow
        assert torch.equal(weight, training.weight) == overflow
        assert training.scheduler.samples == 10 * made
        assert training.rate == pytest.approx(1.0 - made / 100)
    assert training.scheduler.skipped == sum(overflows)
    assert training.scheduler.state_dict()["skipped"] == sum(overflows)


@pytest.mark.parametrize("kind", ["loop", "foreach"])
def test_without_scaler_and_gradients_it_says_what_to_do(kind: str) -> None:
    training = Training(kind, tell=False)
    with pytest.raises(RuntimeError, match=r"hand it to apply\(scaler=\)"):
        training.step(ORDERS["update, zero, schedule"], overflow=True)
    training = Training(kind, tell=True)
    with pytest.raises(RuntimeError, match=r"call it after scaler\.update\(\)"):
        training.step(("zero", "schedule", "update"), overflow=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("tell", [True, False])
def test_twice_for_one_update_is_refused_under_a_scaler_too(kind: str, order: str, tell: bool) -> None:
    training = Training(kind, tell)
    for _ in range(4):  # the scale grows meanwhile
        training.step(ORDERS[order], overflow=False)
    training.step(ORDERS["update, schedule, zero"], overflow=True)
    with pytest.raises(RuntimeError, match=TWICE):
        training.step(ORDERS[order], overflow=False, times=2)
    assert training.scheduler.samples == 50
    assert training.rate == pytest.approx(0.95)


def test_a_scaler_that_is_off_changes_nothing() -> None:
    training = Training("foreach", tell=False)
    scaler = GradScaler("cpu", enabled=False)
    scheduler = apply(training.optimizer, linear, global_batch_size=10, total_samples=1000, scaler=scaler)
    scaler.scale(training.weight.sum()).backward()
    scaler.step(training.optimizer)
    scaler.update()
    scheduler.step()
    assert scheduler.samples == 10
    with pytest.raises(RuntimeError, match=TWICE):
        scheduler.step()


def test_counting_calls_the_scaler_is_still_asked() -> None:
    training = Training("foreach", tell=True, strict=False)
    training.step(ORDERS["update, schedule, zero"], overflow=True)
    training.step(ORDERS["update, schedule, zero"], overflow=False)
    assert (training.scheduler.samples, training.scheduler.skipped) == (10, 1)


def test_resuming_after_skips() -> None:
    training, again = Training("foreach", tell=True), Training("foreach", tell=True)
    for overflow in (True, False, True):
        training.step(ORDERS["update, schedule, zero"], overflow)
    again.scaler.load_state_dict(training.scaler.state_dict())
    again.optimizer.load_state_dict(training.optimizer.state_dict())
    again.scheduler.load_state_dict(training.scheduler.state_dict())
    again.step(ORDERS["update, schedule, zero"], overflow=True)
    again.step(ORDERS["update, schedule, zero"], overflow=False)
    assert (again.scheduler.samples, again.scheduler.skipped) == (20, 3)
    assert again.rate == pytest.approx(0.98)
