"""The bridge to torch: rates of real optimizers, stepping twice, resuming, what is refused."""

import copy
import json
import math
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from overnight.schedule import Progress, ProgressLR, Schedule, apply, constant, cosine, linear, multistep, warmup

TWICE = r"called without an optimizer\.step\(\) since its last call"


def make(lrs: tuple[float, ...] = (0.5, 0.02), kind: Any = torch.optim.SGD, **settings: Any) -> Optimizer:
    groups = [{"params": [torch.nn.Parameter(torch.ones(3))], "lr": lr} for lr in lrs]
    made: Optimizer = kind(groups, **settings)
    return made


def give_gradients(optimizer: Optimizer, value: float = 1.0) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.full_like(parameter, value)


def update(optimizer: Optimizer, scheduler: ProgressLR) -> None:
    give_gradients(optimizer)
    optimizer.step()
    scheduler.step()


def lrs(optimizer: Optimizer) -> list[float]:
    return [float(group["lr"]) for group in optimizer.param_groups]


@pytest.mark.parametrize(
    "kind",
    [
        torch.optim.SGD,
        torch.optim.Adam,
        partial(torch.optim.AdamW, fused=True),
        partial(torch.optim.AdamW, foreach=True),
        torch.optim.LBFGS,
    ],
)
def test_every_update_uses_the_schedules_rate(kind: Any) -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = kind([weight], lr=0.1)
    schedule = partial(cosine, warmup_samples=40)
    scheduler = apply(optimizer, schedule, global_batch_size=16, total_samples=160)

    def closure() -> float:
        weight.grad = torch.ones(3)
        return 1.0

    for step in range(12):
        assert lrs(optimizer) == [0.1 * schedule(Progress(16 * step, 16, 160))]
        assert scheduler.get_last_lr() == lrs(optimizer)
        optimizer.step(closure)
        scheduler.step()
    assert (scheduler.samples, scheduler.last_epoch, scheduler.skipped) == (192, 12, 0)


def test_each_group_keeps_its_peak() -> None:
    optimizer = make((0.5, 0.02, 0.0))
    scheduler = apply(optimizer, linear, global_batch_size=10, total_samples=40)
    for factor in (1.0, 0.75, 0.5, 0.25, 0.0, 0.0):
        assert lrs(optimizer) == pytest.approx([0.5 * factor, 0.02 * factor, 0.0])
        update(optimizer, scheduler)


def test_a_rate_in_a_tensor_is_filled_in_place() -> None:
    rate = torch.tensor(0.5)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))], lr=rate, foreach=False)
    scheduler = apply(optimizer, linear, global_batch_size=10, total_samples=40)
    update(optimizer, scheduler)
    assert optimizer.param_groups[0]["lr"] is rate
    assert rate.item() == 0.375
    json.dumps(scheduler.state_dict())


def test_it_is_a_torch_scheduler() -> None:
    scheduler = apply(make(), linear, global_batch_size=10, total_samples=40)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)


def test_twice_for_one_update_is_refused_and_changes_nothing() -> None:
    optimizer = make()
    scheduler = apply(optimizer, linear, global_batch_size=10, total_samples=100)
    update(optimizer, scheduler)
    before, rates = scheduler.state_dict(), lrs(optimizer)
    for _ in range(3):
        with pytest.raises(RuntimeError, match=TWICE):
            scheduler.step()
    assert scheduler.state_dict() == before
    assert lrs(optimizer) == rates
    update(optimizer, scheduler)  # and it goes on
    assert (scheduler.samples, lrs(optimizer)[0]) == (20, 0.4)


@pytest.mark.parametrize("set_to_none", [True, False, None])
def test_twice_is_refused_whatever_became_of_the_gradients(set_to_none: bool | None) -> None:
    optimizer = make()
    scheduler = apply(optimizer, linear, global_batch_size=10, total_samples=100)
    for _ in range(2):
        give_gradients(optimizer)
        optimizer.step()
        if set_to_none is not None:
            optimizer.zero_grad(set_to_none)
        scheduler.step()
        with pytest.raises(RuntimeError, match=TWICE):
            scheduler.step()


def test_before_the_first_update_is_refused() -> None:
    scheduler = apply(make(), linear, global_batch_size=10, total_samples=100)
    with pytest.raises(RuntimeError, match=TWICE):
        scheduler.step()


def test_once_per_micro_batch_is_refused() -> None:
    optimizer = make()
    scheduler = apply(optimizer, linear, global_batch_size=10, total_samples=100)
    give_gradients(optimizer)  # the first of two micro-batches
    with pytest.raises(RuntimeError, match="not once per rank or micro-batch"):
        scheduler.step()


def test_two_schedulers_of_one_optimizer_are_told_apart() -> None:
    optimizer = make()
    first, second = (apply(optimizer, linear, global_batch_size=10, total_samples=100) for _ in range(2))
    optimizer.step()
    first.step()
    second.step()
    with pytest.raises(RuntimeError, match=TWICE):
        first.step()


def test_two_optimizers_are_told_apart() -> None:
    one, two = make(), make()
    schedulers = [apply(optimizer, linear, global_batch_size=10, total_samples=100) for optimizer in (one, two)]
    one.step()
    schedulers[0].step()
    with pytest.raises(RuntimeError, match=TWICE):
        schedulers[1].step()


def test_counting_calls_for_updates_that_python_does_not_see() -> None:
    optimizer = make()
    scheduler = apply(optimizer, linear, global_batch_size=10, total_samples=100, strict=False)
    for step in range(1, 4):
        scheduler.step()
        assert (scheduler.samples, lrs(optimizer)[0]) == (10 * step, pytest.approx(0.5 * (1 - step / 10)))


def test_a_step_that_only_fills_the_optimizers_state_is_not_counted() -> None:
    """torch.distributed.checkpoint steps a fresh optimizer once, with a rate of 0, so that it has a state to load."""
    optimizer = make()
    scheduler = apply(optimizer, linear, global_batch_size=10, total_samples=100)
    optimizer.step()
    update(optimizer, scheduler)
    assert scheduler.samples == 10


def test_under_compile() -> None:
    optimizer = make(kind=torch.optim.Adam)
    scheduler = apply(optimizer, linear, global_batch_size=10, total_samples=100)
    step = torch.compile(optimizer.step, backend="eager")
    for count in range(1, 5):
        give_gradients(optimizer)
        step()
        scheduler.step()
        assert scheduler.samples == 10 * count
    with pytest.raises(RuntimeError, match=TWICE):
        scheduler.step()


class Wrapper(Optimizer):
    """A wrapper as Accelerate has it: an Optimizer by type, whose own constructor never ran."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer

    @property
    def param_groups(self) -> Any:  # type: ignore[override]
        return self.optimizer.param_groups

    def step(self, closure: Any = None) -> Any:
        return self.optimizer.step(closure)


@pytest.mark.parametrize("wrapped_first", [True, False])
def test_a_wrapped_optimizer(wrapped_first: bool) -> None:
    inner = make()
    wrapper = Wrapper(inner)
    scheduler = apply(wrapper if wrapped_first else inner, linear, global_batch_size=10, total_samples=100)
    for count in range(1, 4):
        give_gradients(inner)
        wrapper.step()
        scheduler.step()
        assert (scheduler.samples, lrs(inner)[0]) == (10 * count, pytest.approx(0.5 * (1 - count / 10)))
    with pytest.raises(RuntimeError, match=TWICE):  # Accelerate's own scheduler steps once per rank
        scheduler.step()


def test_another_batch_in_the_middle() -> None:
    """The samples seen stay: 3 updates of 10, then updates of 35."""
    optimizer = make((1.0,))
    schedule = partial(linear, warmup_samples=100)
    scheduler = apply(optimizer, schedule, global_batch_size=10, total_samples=200)
    for _ in range(3):
        update(optimizer, scheduler)
    assert lrs(optimizer) == [0.4]
    scheduler.set_global_batch_size(35)
    assert lrs(optimizer) == [0.65]
    update(optimizer, scheduler)
    assert (scheduler.samples, lrs(optimizer)) == (65, [1.0])
    with pytest.raises(ValueError, match="global_batch_size must be a number above 0, not 0"):
        scheduler.set_global_batch_size(0)


def run(optimizer: Optimizer, scheduler: ProgressLR, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        seen += lrs(optimizer)
        update(optimizer, scheduler)
    return seen


SCHEDULE = partial(warmup, schedule=partial(multistep, milestones=(70, 120), gamma=0.3), warmup_samples=45)


@pytest.mark.parametrize("order", ["scheduler first", "optimizer first", "optimizer before the scheduler is made"])
@pytest.mark.parametrize("stop", [0, 1, 7, 12])
def test_resuming_is_exact(order: str, stop: int) -> None:
    settings: dict[str, Any] = {"global_batch_size": 10, "total_samples": 200}
    whole = make(kind=torch.optim.Adam)
    expected = run(whole, apply(whole, SCHEDULE, **settings), 20)
    first = make(kind=torch.optim.Adam)
    scheduler = apply(first, SCHEDULE, **settings)
    got = run(first, scheduler, stop)
    saved = json.loads(json.dumps(scheduler.state_dict()))
    saved_optimizer = copy.deepcopy(first.state_dict())

    again = make(kind=torch.optim.Adam)
    if order == "optimizer before the scheduler is made":
        again.load_state_dict(saved_optimizer)
    resumed = apply(again, SCHEDULE, **settings)
    if order == "optimizer first":
        again.load_state_dict(saved_optimizer)
    resumed.load_state_dict(saved)
    if order == "scheduler first":
        again.load_state_dict(saved_optimizer)
    assert resumed.state_dict() == saved
    assert resumed.get_last_lr() == lrs(again)
    assert got + run(again, resumed, 20 - stop) == expected


def test_a_checkpoint_between_the_update_and_the_schedule() -> None:
    optimizer = make()
    scheduler = apply(optimizer, linear, global_batch_size=10, total_samples=100)
    optimizer.step()
    saved = scheduler.state_dict()
    resumed = apply(make(), linear, global_batch_size=10, total_samples=100)
    resumed.load_state_dict(saved)
    resumed.step()
    assert resumed.samples == 10
    with pytest.raises(RuntimeError, match=TWICE):
        resumed.step()


def test_resuming_with_another_batch_and_length() -> None:
    """The state is where the run stands; batch and length are what the new script says."""
    optimizer = make((1.0,))
    scheduler = apply(optimizer, linear, global_batch_size=10, total_samples=100)
    run(optimizer, scheduler, 4)
    again = make((1.0,))
    resumed = apply(again, linear, global_batch_size=20, total_samples=400)
    resumed.load_state_dict(scheduler.state_dict())
    assert lrs(again) == [pytest.approx(0.9)]
    update(again, resumed)
    assert (resumed.samples, lrs(again)) == (60, [pytest.approx(0.85)])


def test_a_pickled_scheduler_goes_on_watching() -> None:
    optimizer = make()
    scheduler = apply(optimizer, SCHEDULE, global_batch_size=10, total_samples=200)
    run(optimizer, scheduler, 3)
    for again in (pickle.loads(pickle.dumps(scheduler)), copy.deepcopy(scheduler)):
        update(again.optimizer, again)
        assert again.samples == 40
        with pytest.raises(RuntimeError, match=TWICE):
            again.step()
    assert scheduler.samples == 30


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"last_epoch": 3, "base_lrs": [0.1]}, "not the state of a ProgressLR: it has no 'samples'"),
        (
            {"samples": 30, "updates": 3, "skipped": 0, "stepped": 0, "peaks": [0.1]},
            "state is of 1 parameter groups, and the optimizer has 2",
        ),
    ],
)
def test_a_state_of_something_else_changes_nothing(state: dict[str, Any], said: str) -> None:
    optimizer = make()
    scheduler = apply(optimizer, linear, global_batch_size=10, total_samples=100)
    run(optimizer, scheduler, 2)
    before, rates = scheduler.state_dict(), lrs(optimizer)
    with pytest.raises(ValueError, match=said):
        scheduler.load_state_dict(state)
    assert (scheduler.state_dict(), lrs(optimizer)) == (before, rates)


@pytest.mark.parametrize(
    ("schedule", "settings", "said"),
    [
        (linear, {"global_batch_size": 0}, "global_batch_size must be a number above 0, not 0"),
        (linear, {"global_batch_size": -8}, "global_batch_size must be a number above 0, not -8"),
        (linear, {"global_batch_size": math.nan}, "global_batch_size must be a number above 0, not nan"),
        (linear, {"total_samples": 0}, "total_samples must be a number above 0, not 0"),
        (linear, {"total_samples": -1}, "total_samples must be a number above 0, not -1"),
        (linear, {"total_samples": math.nan}, "total_samples must be a number above 0, not nan"),
        (linear, {"total_samples": None}, "total_samples must be a number above 0, not None"),
        ("cosine", {}, "schedule must be a function of Progress, not 'cosine'"),
        (partial(linear, warmup_samples=101), {}, "The warm-up of 101 samples is longer than the run of 100"),
        (partial(warmup, schedule=constant, warmup_samples=200), {}, "The warm-up of 200 samples is longer than"),
        (
            partial(warmup, schedule=partial(linear, warmup_samples=300), warmup_samples=20),
            {},
            "The warm-up of 300 samples is longer than",
        ),
        (partial(linear, warmup_samples=-1), {}, "warmup_samples must be a number of at least 0, not -1"),
        (partial(multistep, milestones=(30, 20)), {}, "milestones must rise"),
        (lambda progress: math.nan, {}, "The schedule gave a factor of nan at 0 samples"),
        (lambda progress: None, {}, "The schedule gave a factor of None at 0 samples"),
        (lambda progress: -0.5, {}, "The schedule gave a factor of -0.5 at 0 samples"),
    ],
)
def test_what_is_refused_before_the_optimizer_is_touched(
    schedule: Schedule, settings: dict[str, Any], said: str
) -> None:
    optimizer = make()
    with pytest.raises(ValueError, match=said):
        apply(optimizer, schedule, **{"global_batch_size": 10, "total_samples": 100} | settings)
    assert lrs(optimizer) == [0.5, 0.02]
    assert "initial_lr" not in optimizer.param_groups[0]
    assert "step" not in optimizer.__dict__


def test_a_schedule_without_an_end_needs_no_length() -> None:
    optimizer = make((1.0,))
    scheduler = apply(optimizer, partial(multistep, milestones=(20,)), global_batch_size=10, total_samples=math.inf)
    assert run(optimizer, scheduler, 3) == [1.0, 1.0, 0.1]


def test_later_mistakes() -> None:
    optimizer = make()
    scheduler = apply(optimizer, linear, global_batch_size=10, total_samples=100)
    optimizer.step()
    with pytest.raises(ValueError, match="counts samples: step"):
        scheduler.step(3)
    optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
    before = scheduler.state_dict()
    with pytest.raises(ValueError, match=r"3 parameter groups, and had 2 .* after the last add_param_group"):
        scheduler.step()
    assert scheduler.state_dict() == before


def test_what_is_no_optimizer_is_refused() -> None:
    with pytest.raises(TypeError, match="Linear is not an Optimizer"):
        apply(torch.nn.Linear(2, 2), linear, global_batch_size=10, total_samples=100)  # type: ignore[arg-type]
