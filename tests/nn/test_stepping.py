"""One step at a time against the layers' own call: every map, projection, stacks, precision, copies, bad input."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from overnight.models.byte_lm import ByteLM
from overnight.models.byte_stepper import ByteStepper
from overnight.nn.gates import DenseGates, FactorizedGates, GroupedGates, MultiplicativeGates
from overnight.nn.recurrence import Recurrent
from overnight.nn.stack import RecurrentStack
from overnight.nn.stepping import RecurrentStepper

MAPS: dict[str, Callable[..., Any]] = {
    "dense": DenseGates,
    "factorized": partial(FactorizedGates, rank=3),
    "grouped": partial(GroupedGates, groups=3),
    "multiplicative": MultiplicativeGates,
}
every_map = pytest.mark.parametrize("name", MAPS)


def steps(stepper: RecurrentStepper, x_TBD: Tensor, state: Any) -> tuple[Tensor, Any]:
    outputs = []
    for x_BD in x_TBD:
        h_BN, state = stepper.step(x_BD, state)
        outputs.append(h_BN)
    return torch.stack(outputs), state


@every_map
@pytest.mark.parametrize("output", [12, 9], ids=["", "projected"])
@pytest.mark.parametrize("weight_norm", [False, True], ids=["plain", "weight norm"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=str)
def test_equals_the_layer(name: str, output: int, weight_norm: bool, dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    layer = Recurrent(MAPS[name](6, 12, output, weight_norm=weight_norm)).to(dtype)
    x = torch.randn(7, 3, 6, dtype=dtype)
    stepper = RecurrentStepper(layer)
    expected, last = layer(x)
    found, (state,) = steps(stepper, x, stepper.initial_state(3))
    assert not found.requires_grad
    torch.testing.assert_close((found, *state), (expected, *last), rtol=0, atol=tolerance)
    expected, last = layer(x, last)
    found, (state,) = steps(stepper, x, [state])
    torch.testing.assert_close((found, *state), (expected, *last), rtol=0, atol=tolerance)


def mixed() -> RecurrentStack:
    torch.manual_seed(0)
    maps = [GroupedGates(6, 12, 9, groups=3), FactorizedGates(9, 10, rank=4), MultiplicativeGates(10, 8, 5)]
    return RecurrentStack([*maps, DenseGates(5, 7)], dropout=0.5)


def test_a_stack_continues_from_its_own_state_and_drops_nothing() -> None:
    stack = mixed().double().train()
    x = torch.randn(9, 2, 6, dtype=torch.float64)
    stack.eval()
    whole, last = stack(x)
    _, state = stack(x[:4])
    stack.train()
    found, end = steps(RecurrentStepper(stack), x[4:], state)
    torch.testing.assert_close(found, whole[4:], rtol=0, atol=1e-13)
    torch.testing.assert_close(end, last, rtol=0, atol=1e-13)


def test_products_run_in_the_given_dtype_whatever_autocast_says() -> None:
    stack, x = mixed().eval(), torch.randn(9, 2, 6)
    with torch.autocast("cpu", torch.bfloat16):
        expected, _ = stack(x)
    stepper = RecurrentStepper(stack, torch.bfloat16)
    found, state = steps(stepper, x, stepper.initial_state(2))
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast, _ = steps(stepper, x, stepper.initial_state(2))
        plain, _ = steps(RecurrentStepper(stack), x, RecurrentStepper(stack).initial_state(2))
    assert torch.equal(found, under_autocast)
    torch.testing.assert_close(plain, stack(x)[0].detach())
    assert {part.dtype for pair in state for part in pair} == {torch.bfloat16, torch.float32}
    assert all(c.dtype == torch.float32 for _, c in state)
    torch.testing.assert_close(found, expected, rtol=0, atol=2**-6)


@every_map
@pytest.mark.parametrize("weight_norm", [False, True])
def test_later_changes_of_the_layer_do_not_reach_it(name: str, weight_norm: bool) -> None:
    layer = Recurrent(MAPS[name](6, 12, 9, weight_norm=weight_norm))
    stepper, x = RecurrentStepper(layer), torch.randn(4, 2, 6)
    before, _ = steps(stepper, x, stepper.initial_state(2))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(0.5)
    after, _ = steps(stepper, x, stepper.initial_state(2))
    assert torch.equal(before, after)


@pytest.mark.parametrize("weight_norm", [False, True])
def test_later_changes_of_a_byte_model_do_not_reach_its_stepper(weight_norm: bool) -> None:
    model = ByteLM(8, 4, layers=2, weight_norm=weight_norm)
    stepper, ids = ByteStepper(model), torch.tensor([1, 200])
    # the second step reads the weights of h
    logits = [stepper.step(ids, stepper.step(ids, stepper.state(model.initial_carry(2)))[1])[0]]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    logits.append(stepper.step(ids, stepper.step(ids, stepper.state(model.initial_carry(2)))[1])[0])
    assert torch.equal(*logits)


@pytest.mark.parametrize("batch", [0, 1])
def test_an_empty_batch_is_defined(batch: int) -> None:
    stepper = RecurrentStepper(mixed())
    h, state = stepper.step(torch.zeros(batch, 6), stepper.initial_state(batch))
    assert h.shape == (batch, 7)
    assert [(h.shape, c.shape) for h, c in state] == [
        ((batch, n), (batch, width)) for n, width in [(9, 12), (10, 10), (5, 8), (7, 7)]
    ]


def test_wrong_input_is_named() -> None:
    stepper = RecurrentStepper(mixed())
    state = stepper.initial_state(2)
    with pytest.raises(ValueError, match="state is of 3 layers; the stack has 4"):
        stepper.step(torch.zeros(2, 6), state[:3])
    with pytest.raises(ValueError, match="5 wide; the gate map takes 6"):
        stepper.step(torch.zeros(2, 5), state)
    with pytest.raises(ValueError, match=r"State h has shape \(2, 9\); expected \(3, 9\)"):
        stepper.step(torch.zeros(3, 6), state)
    with pytest.raises(ValueError, match="input is torch"):
        stepper.step(torch.zeros(2, 6, dtype=torch.long), state)
