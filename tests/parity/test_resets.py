"""A reset clears whatever the state was, NaN and infinity among it, on both paths, forward and backward."""

from typing import Any

import pytest
import torch
from parity.fast_cases import Case, call, every_map, make, with_and_without_projection
from torch import Tensor

from overnight.nn.fast.sequence import fast_recurrence
from overnight.nn.gates import DenseGates
from overnight.nn.recurrence import Recurrent, recurrence

BROKEN = [float("nan"), float("inf"), -float("inf")]
both_paths = pytest.mark.parametrize("run", [recurrence, fast_recurrence], ids=["readable", "fast"])
every_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)


def gradients(run: Any, case: Case, since: int) -> dict[str, Tensor]:
    """Outputs from step ``since`` on, and the gradients of their sum."""
    fresh = case.to(lambda leaf: leaf.clone().requires_grad_())
    h, h_last, c_last = call(run, fresh)
    torch.stack([part.double().sum() for part in (h[since:], h_last, c_last)]).sum().backward()
    found = {"h": h[since:].detach(), "h_last": h_last.detach(), "c_last": c_last.detach()}
    return found | {f"d{key}": leaf.grad for key, leaf in fresh.leaves.items()}


@every_map
@with_and_without_projection
@both_paths
@every_dtype
@pytest.mark.parametrize("value", BROKEN)
@pytest.mark.parametrize("broken", [("h0",), ("c0",), ("h0", "c0")], ids=str)
def test_a_broken_carry_is_forgotten(
    name: str, projected: bool, run: Any, dtype: torch.dtype, value: float, broken: tuple[str, ...]
) -> None:
    """One lane's carry is broken, and reset before the first step: all is as with any other carry."""
    case = make(name, 5, 3, 6, projected, dtype, reset="some")
    assert case.reset is not None
    case.reset[0, 1] = True
    spoilt = {key: case.leaves[key].clone() for key in broken}
    for part in spoilt.values():
        part[1] = value
    found, expected = gradients(run, case.with_leaves(**spoilt), 0), gradients(run, case, 0)
    for key, theirs in expected.items():
        assert torch.equal(found[key], theirs), key
    assert not found["dh0"][1].any()
    assert not found["dc0"][1].any()


@every_map
@with_and_without_projection
@both_paths
@pytest.mark.parametrize("value", BROKEN)
def test_a_reset_later_on_clears_too(name: str, projected: bool, run: Any, value: float) -> None:
    case = make(name, 6, 3, 6, projected, reset="none")
    reset = torch.zeros(6, 3, dtype=torch.bool)
    reset[2, 1] = True
    case = Case(case.name, case.leaves, reset, case.factors)
    spoilt = {key: case.leaves[key].clone() for key in ("h0", "c0")}
    for part in spoilt.values():
        part[1] = value
    with torch.no_grad():
        found, expected = call(run, case.with_leaves(**spoilt)), call(run, case)
    assert torch.equal(found[0][2:], expected[0][2:])
    assert torch.equal(found[1], expected[1])
    assert torch.equal(found[2], expected[2])


@pytest.mark.parametrize("path", ["readable", "fast"])
def test_gradients_of_infinite_slope_stop_at_a_reset(path: Any) -> None:
    """A NaN that comes back from the steps after a reset does not reach those before it."""
    torch.manual_seed(0)
    layer, reset = Recurrent(DenseGates(3, 4), path), torch.zeros(6, 2, dtype=torch.bool)
    reset[3, 1] = True
    x = torch.randn(6, 2, 3, requires_grad=True)
    out, _ = layer(x, None, reset)
    upstream = torch.ones_like(out)
    upstream[4, 1] = float("nan")
    out.backward(upstream)
    assert x.grad is not None
    assert x.grad[3:5, 1].isnan().all()
    assert x.grad[:3].isfinite().all()
    assert x.grad[:, 0].isfinite().all()
