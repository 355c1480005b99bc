"""The fast recurrence against the readable one, for every gate map: outputs and all gradients, whatever the input."""

from itertools import combinations
from typing import Any

import pytest
import torch
from parity.fast_cases import (
    assert_same,
    call,
    every_map,
    loss_of,
    make,
    run_backward,
    with_and_without_projection,
)
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from overnight.nn.fast.sequence import fast_recurrence
from overnight.nn.recurrence import recurrence

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}
every_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


@every_map
@with_and_without_projection
@every_dtype
@pytest.mark.parametrize(
    ("time", "batch", "hidden"), [(7, 1, 101), (7, 7, 63), (63, 7, 7), (101, 1, 63), (1, 1, 7), (1, 63, 101)]
)
def test_equals_readable(name: str, projected: bool, dtype: torch.dtype, time: int, batch: int, hidden: int) -> None:
    case = make(name, time, batch, hidden, projected, dtype)
    assert_same(run_backward(fast_recurrence, case), run_backward(recurrence, case), TOLERANCES[dtype])


@every_map
@with_and_without_projection
@every_dtype
@pytest.mark.parametrize("reset", ["none", "never", "first", "ends"])
@pytest.mark.parametrize("time", [1, 7])
def test_resets(name: str, projected: bool, dtype: torch.dtype, reset: str, time: int) -> None:
    case = make(name, time, 3, 7, projected, dtype, reset)
    actual = run_backward(fast_recurrence, case)
    assert_same(actual, run_backward(recurrence, case), TOLERANCES[dtype])
    assert (actual["dh0"].any() or actual["dc0"].any()) == (reset in ("none", "never"))


@every_map
@with_and_without_projection
@pytest.mark.parametrize(("time", "batch", "hidden"), [(7, 3, 63), (63, 7, 101), (101, 1, 7)])
def test_bf16_is_as_close_to_float64_as_the_readable_form(
    name: str, projected: bool, time: int, batch: int, hidden: int
) -> None:
    case = make(name, time, batch, hidden, projected, torch.bfloat16)
    exact = run_backward(recurrence, case.to(Tensor.double))
    fast, readable = run_backward(fast_recurrence, case), run_backward(recurrence, case)
    for key, true in exact.items():
        assert fast[key].dtype == readable[key].dtype, key
        errors = [(form[key].double() - true).norm().item() for form in (fast, readable)]
        size = true.norm().item()
        assert errors[0] <= 1.25 * errors[1] + 2**-9 * size, f"{key}: fast {errors[0]}, readable {errors[1]}"
        assert errors[0] <= 0.03 * size, key


@every_map
@with_and_without_projection
def test_only_some_inputs_require_gradients(name: str, projected: bool) -> None:
    case = make(name, 5, 3, 6, projected)
    names = list(case.leaves)
    expected = run_backward(recurrence, case)
    for size in (1, 2, len(names) - 1):
        for wanted in combinations(names, size):
            kept = {key: part for key, part in expected.items() if key[0] != "d" or key[1:] in wanted}
            assert_same(run_backward(fast_recurrence, case, wanted), kept, 1e-12)


@every_map
@with_and_without_projection
@pytest.mark.parametrize("used", [0, 1, 2])
def test_only_one_output_is_used(name: str, projected: bool, used: int) -> None:
    case = make(name, 7, 3, 6, projected).to(Tensor.requires_grad_)
    gradients = []
    for run in (fast_recurrence, recurrence):
        # a sum's gradient is expanded, not contiguous
        loss = call(run, case)[used].sum()
        gradients.append(torch.autograd.grad(loss, list(case.leaves.values()), materialize_grads=True))
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@every_map
@with_and_without_projection
@every_dtype
def test_memory_layout_does_not_matter(name: str, projected: bool, dtype: torch.dtype) -> None:
    case = make(name, 7, 4, 6, projected, dtype)
    expected = run_backward(recurrence, case)
    leaves = {}
    for turn in (
        lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
        lambda x: torch.stack([x, x], -1)[..., 1],
        lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    ):
        leaves = {key: turn(leaf).requires_grad_() for key, leaf in case.leaves.items()}
        assert not any(leaf.is_contiguous() for key, leaf in leaves.items() if leaf.dim() > 1)
        outputs = call(fast_recurrence, case.with_leaves(**leaves))
        incoming = [turn(factor) for factor in case.factors]
        torch.autograd.backward(outputs, incoming)
        found = dict(zip(("h", "h_last", "c_last"), (out.detach() for out in outputs), strict=True))
        found.update({f"d{key}": leaf.grad for key, leaf in leaves.items() if leaf.grad is not None})
        assert_same(found, expected, TOLERANCES[dtype])


@every_map
@with_and_without_projection
@every_dtype
def test_expanded_inputs(name: str, projected: bool, dtype: torch.dtype) -> None:
    case = make(name, 7, 4, 6, projected, dtype)
    gradients = []
    for run in (fast_recurrence, recurrence):
        one = {key: leaf[:1].clone().requires_grad_() for key, leaf in case.leaves.items()}
        wide = {key: leaf.expand(case.leaves[key].shape) for key, leaf in one.items()}
        outputs = call(run, case.with_leaves(**wide))
        gradients.append([*outputs, *torch.autograd.grad(loss_of(outputs, case), list(one.values()))])
    scale = max(part.abs().max().item() for part in gradients[1])
    torch.testing.assert_close(*gradients, rtol=0, atol=TOLERANCES[dtype] * scale)


@every_map
@with_and_without_projection
@pytest.mark.parametrize(("time", "batch"), [(0, 3), (5, 0), (0, 0), (1, 0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_nothing_to_do(name: str, projected: bool, time: int, batch: int, dtype: torch.dtype) -> None:
    case = make(name, time, batch, 6, projected, dtype)
    wanted = tuple(case.leaves) if time else ("h0", "c0")  # without a step the others have no part in the outputs
    actual = run_backward(fast_recurrence, case, wanted)
    assert_same(actual, run_backward(recurrence, case, wanted), 0.0)


@every_map
@pytest.mark.parametrize("other", [torch.float32, torch.bfloat16], ids=str)
def test_states_of_another_dtype(name: str, other: torch.dtype) -> None:
    """h is taken into p's dtype; c stays in its own, and the cell computes in it."""
    case = make(name, 7, 3, 6)
    case = case.with_leaves(h0=case.leaves["h0"].to(other), c0=case.leaves["c0"].float())
    assert_same(run_backward(fast_recurrence, case), run_backward(recurrence, case), 1e-5)
    narrow = make(name, 7, 3, 6, dtype=torch.bfloat16)
    narrow = narrow.with_leaves(h0=narrow.leaves["h0"].to(other), c0=narrow.leaves["c0"].double())
    assert_same(run_backward(fast_recurrence, narrow), run_backward(recurrence, narrow), 2**-6)


class Poison(TorchDispatchMode):
    """Memory that was not written is NaN."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"):
            self.filled = getattr(self, "filled", 0) + 1
            result.fill_(float("nan") if result.is_floating_point() else 1)
        return result


@every_map
@with_and_without_projection
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_memory_is_written_before_it_is_read(name: str, projected: bool, dtype: torch.dtype) -> None:
    case = make(name, 7, 3, 6, projected, dtype)
    clean = run_backward(fast_recurrence, case)
    # the backward of a CPU graph runs in this thread, so within the mode
    with Poison() as poison:
        poisoned = run_backward(fast_recurrence, case)
        with torch.no_grad():
            outputs = call(fast_recurrence, case)
    assert poison.filled > 10
    # not to the bit: a product may depend on where its operands lie
    assert_same(poisoned, clean, 1e-6 if dtype == torch.bfloat16 else TOLERANCES[dtype])
    for ours, theirs in zip(outputs, list(clean.values())[:3], strict=True):
        torch.testing.assert_close(ours, theirs)


@every_map
@with_and_without_projection
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_twice_the_same(name: str, projected: bool, dtype: torch.dtype) -> None:
    case = make(name, 9, 5, 63, projected, dtype)
    before = {key: leaf.clone() for key, leaf in case.leaves.items()}
    first = run_backward(fast_recurrence, case)
    assert_same(run_backward(fast_recurrence, case), first, 0.0)
    assert_same(case.leaves, before, 0.0)
