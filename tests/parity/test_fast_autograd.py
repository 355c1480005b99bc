"""The fast recurrence among autograd's own rules: derivatives, memory, changes in place."""

from typing import Any

import pytest
import torch
from parity.fast_cases import (
    Case,
    call,
    every_map,
    loss_of,
    make,
    run_backward,
    with_and_without_projection,
)
from torch import Tensor

from overnight.nn.fast.sequence import fast_recurrence
from overnight.nn.recurrence import recurrence


@every_map
@with_and_without_projection
@pytest.mark.parametrize("reset", ["none", "some"])
def test_gradcheck(name: str, projected: bool, reset: str) -> None:
    case = make(name, 4, 2, 4, projected, reset=reset).to(Tensor.requires_grad_)

    def run(*leaves: Tensor) -> tuple[Tensor, ...]:
        return call(fast_recurrence, case.with_leaves(**dict(zip(case.leaves, leaves, strict=True))))

    assert torch.autograd.gradcheck(run, list(case.leaves.values()))


@every_map
@with_and_without_projection
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("used", [0, 1, 2])
def test_second_derivatives_are_refused_clearly(name: str, projected: bool, power: int, used: int) -> None:
    case = make(name, 5, 2, 4, projected).to(Tensor.requires_grad_)
    loss = call(fast_recurrence, case)[used].pow(power).sum()
    with pytest.raises(RuntimeError, match="no second derivatives; use path='readable'"):
        torch.autograd.grad(loss, case.leaves["p"], create_graph=True)


@every_map
@with_and_without_projection
def test_backward_twice_over_one_graph(name: str, projected: bool) -> None:
    case = make(name, 9, 3, 6, projected).to(Tensor.requires_grad_)
    loss = loss_of(call(fast_recurrence, case), case)
    first = torch.autograd.grad(loss, list(case.leaves.values()), retain_graph=True)
    second = torch.autograd.grad(loss, list(case.leaves.values()))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@every_map
@with_and_without_projection
def test_a_change_in_place_is_noticed(name: str, projected: bool) -> None:
    """What the backward reads raises autograd's own error; what it does not leaves the gradients right."""
    case = make(name, 5, 3, 6, projected)
    expected = run_backward(recurrence, case)
    for changed in (*case.leaves, "reset", "h", "h_last", "c_last"):
        fresh = case.to(lambda leaf: leaf.clone().requires_grad_())
        fresh = Case(fresh.name, fresh.leaves, case.reset.clone(), case.factors)
        outputs = call(fast_recurrence, fresh)
        loss = loss_of(outputs, case)
        parts = {**fresh.leaves, "reset": fresh.reset, **dict(zip(("h", "h_last", "c_last"), outputs, strict=True))}
        with torch.no_grad():
            parts[changed].detach().copy_(torch.ones_like(parts[changed]))
        if changed in ("p", "h0", "c0", "reset", "h_last", "c_last"):
            loss.backward()
            for key, leaf in fresh.leaves.items():
                torch.testing.assert_close(leaf.grad, expected[f"d{key}"], rtol=0, atol=1e-12)
        else:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()


@every_map
@with_and_without_projection
def test_outputs_do_not_share_memory(name: str, projected: bool) -> None:
    """A state that is carried, or zeroed in place, holds no sequence and changes none."""
    case = make(name, 5, 3, 6, projected)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            h, *last = call(fast_recurrence, case.to(lambda leaf, grad=grad: leaf.clone().requires_grad_(grad)))
        for part in last:
            assert part.untyped_storage().nbytes() == part.nbytes
            assert part.untyped_storage().data_ptr() != h.untyped_storage().data_ptr()


def peak_bytes(run: Any) -> int:
    """Most bytes alive at once that the run allocated, its result's among them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        kept = run()
    del kept
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    return peak


@every_map
@with_and_without_projection
def test_without_gradients_one_steps_memory_serves_all(name: str, projected: bool) -> None:
    grown = {}
    for time in (4, 40):
        case = make(name, time, 3, 64, projected, reset="none").to(Tensor.requires_grad_)
        expected = call(recurrence, case)
        for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
            with mode():
                outputs = call(fast_recurrence, case)
                peak = peak_bytes(lambda case=case: call(fast_recurrence, case)) - outputs[0].nbytes
            grown[mode] = peak - grown.get(mode, 0)
            for ours, theirs in zip(outputs, expected, strict=True):
                assert ours.requires_grad == (mode is torch.enable_grad)
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    c = expected[2].nbytes
    assert grown[torch.no_grad] == grown[torch.inference_mode] == 0, "nothing but h grows with time"
    assert grown[torch.enable_grad] >= 36 * 5 * c, "four gates and c of every step"
