"""Stacked layers against ``nn.LSTM`` with several layers and projections; state, masks, dropout, bad input."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.gates import DenseGates, FactorizedGates, GroupedGates, MultiplicativeGates
from overnight.nn.stack import RecurrentStack


def dense_stack(width: int, hidden: int, output: int, layers: int, **options: Any) -> RecurrentStack:
    return RecurrentStack(
        (DenseGates(width if index == 0 else output, hidden, output) for index in range(layers)), **options
    )


def as_torch(stack: RecurrentStack, width: int, hidden: int, output: int) -> tuple[nn.LSTM, list[Tensor], list[Tensor]]:
    """``nn.LSTM`` of the same weights; the stack's parameters and torch's, in the same order."""
    projected = output != hidden
    theirs = nn.LSTM(width, hidden, len(stack.layers), proj_size=output if projected else 0)
    theirs = theirs.to(next(stack.parameters()).dtype)
    mine, other = [], []
    for index, layer in enumerate(stack.layers):
        mine += [layer.gates.input_to_gates.weight, layer.gates.hidden_to_gates.weight, layer.gates.bias]
        other += [getattr(theirs, f"{name}_l{index}") for name in ("weight_ih", "weight_hh", "bias_ih")]
        if projected:
            mine.append(layer.projection.weight)
            other.append(getattr(theirs, f"weight_hr_l{index}"))
        nn.init.zeros_(getattr(theirs, f"bias_hh_l{index}"))
    with torch.no_grad():
        for ours, their in zip(mine, other, strict=True):
            ours.add_(0.2 * torch.randn_like(ours))
            their.copy_(ours)
    return theirs, mine, other


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(
    ("time", "batch", "width", "hidden", "output"),
    [(7, 3, 5, 9, 9), (7, 3, 5, 9, 4), (63, 1, 4, 7, 3), (31, 7, 3, 5, 1)],
)
def test_equals_torch_in_outputs_and_gradients(
    time: int, batch: int, width: int, hidden: int, output: int, layers: int, dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(0)
    stack = dense_stack(width, hidden, output, layers).to(dtype)
    theirs, mine, other = as_torch(stack, width, hidden, output)
    shapes = [(time, batch, width), (layers, batch, output), (layers, batch, hidden)]
    leaves = [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]
    factors = [torch.randn(shape, dtype=dtype) for shape in [(time, batch, output), *shapes[1:]]]
    results = []
    for ours, parameters in ((True, mine), (False, other)):
        x, h, c = leaves
        if ours:
            out, last = stack(x, list(zip(h, c, strict=True)))
            outputs = [out, *(torch.stack(part) for part in zip(*last, strict=True))]
        else:
            out, last = theirs(x, (h, c))
            outputs = [out, *last]
        loss = sum((part * factor).sum() for part, factor in zip(outputs, factors, strict=True))
        results.append([*outputs, *torch.autograd.grad(loss, [*leaves, *parameters])])
    for ours, their in zip(*results, strict=True):
        scale = max(1.0, their.abs().max().item())
        torch.testing.assert_close(ours, their, rtol=0, atol=tolerance * scale)


def mixed() -> RecurrentStack:
    torch.manual_seed(0)
    return RecurrentStack(
        [
            GroupedGates(6, 12, 9, groups=3),
            FactorizedGates(9, 10, rank=4),
            MultiplicativeGates(10, 8),
            DenseGates(8, 5, 7),
        ]
    ).double()


def test_maps_of_different_kinds_carry_their_states_under_one_mask() -> None:
    stack = mixed()
    x = torch.randn(9, 2, 6, dtype=torch.float64)
    reset = torch.zeros(9, 2, dtype=torch.bool)
    reset[5, 1] = True
    whole, last = stack(x, None, reset)
    assert whole.shape == (9, 2, 7)
    assert [(h.shape[1], c.shape[1]) for h, c in last] == [(9, 12), (10, 10), (8, 8), (7, 5)]
    first, state = stack(x[:3], reset_TB=reset[:3])
    second, end = stack(x[3:], state, reset[3:])
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=0, atol=1e-13)
    torch.testing.assert_close(end, last, rtol=0, atol=1e-13)
    fresh, _ = stack(x[5:])
    torch.testing.assert_close(whole[5:, 1], fresh[:, 1], rtol=0, atol=1e-13)
    assert not torch.allclose(whole[5:, 0], fresh[:, 0])


@pytest.mark.parametrize(("time", "batch"), [(0, 2), (3, 0)])
def test_empty_sequences(time: int, batch: int) -> None:
    out, state = mixed()(torch.zeros(time, batch, 6, dtype=torch.float64))
    assert out.shape == (time, batch, 7)
    assert [h.shape[0] for h, _ in state] == [batch] * 4


def test_dropout_acts_between_layers_in_training_only() -> None:
    stack = dense_stack(5, 64, 64, 2, dropout=0.25)
    x = torch.randn(20, 8, 5)
    plain = dense_stack(5, 64, 64, 2)
    plain.load_state_dict(stack.state_dict())
    seen: list[Tensor] = []
    stack.layers[1].register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    below = stack.layers[0](x)[0].detach()
    torch.manual_seed(3)
    one, _ = stack(x)
    torch.manual_seed(3)
    same, _ = stack(x)
    another, _ = stack(x)
    assert torch.equal(one, same)
    assert not torch.equal(one, another)
    dropped = seen[0] == 0
    assert abs(dropped.float().mean().item() - 0.25) < 0.02
    torch.testing.assert_close(seen[0], torch.where(dropped, 0.0, below / 0.75))
    assert not (dropped == dropped[0]).all(), "the mask is drawn anew for every step"
    assert not (one == 0).any(), "the top layer's output is left as it is"
    stack.eval()
    state = torch.get_rng_state()
    assert torch.equal(stack(x)[0], plain(x)[0])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_single_layer_drops_nothing(dropout: float) -> None:
    stack = dense_stack(5, 16, 16, 1, dropout=dropout)
    x = torch.randn(3, 4, 5)
    assert torch.equal(stack(x)[0], stack(x)[0])


def test_path_reaches_every_layer() -> None:
    stack = RecurrentStack([MultiplicativeGates(3, 4), MultiplicativeGates(4, 4)], path="readable")
    assert [layer.path for layer in stack.layers] == ["readable", "readable"]
    assert type(stack(torch.randn(5, 2, 3))[0].grad_fn).__name__ == "StackBackward0"


def test_chunk_reaches_every_layer_and_changes_no_gradient() -> None:
    x, found = torch.randn(9, 2, 3), []
    for chunk in (None, 4):
        torch.manual_seed(0)
        stack = RecurrentStack([MultiplicativeGates(3, 4), DenseGates(4, 4, 2)], chunk=chunk)
        assert [layer.chunk for layer in stack.layers] == [chunk, chunk]
        stack(x)[0].square().sum().backward()
        found.append([parameter.grad for parameter in stack.parameters()])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (partial(RecurrentStack, []), "0 layers"),
        (
            partial(RecurrentStack, [DenseGates(3, 4, 2), DenseGates(4, 4)]),
            "Layer 1 takes 4 inputs; layer 0 hands on 2",
        ),
        (partial(RecurrentStack, [DenseGates(3, 4)], dropout=1.0), "dropout=1.0"),
        (partial(RecurrentStack, [DenseGates(3, 4)], dropout=-0.1), "dropout=-0.1"),
        (partial(RecurrentStack, [DenseGates(3, 4)], dropout=float("nan")), "dropout=nan"),
        (partial(RecurrentStack, [DenseGates(3, 4)], chunk=0), "chunk=0 is not a number of steps"),
        (partial(RecurrentStack, [DenseGates(3, 4)], path="quick"), "'quick' is not a recurrence path"),
    ],
)
def test_wrong_stacks_are_named(make: Any, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        make()


def test_a_state_of_another_depth_or_batch_is_named() -> None:
    stack = dense_stack(5, 9, 4, 2)
    pair = (torch.zeros(3, 4), torch.zeros(3, 9))
    with pytest.raises(ValueError, match="state is of 1 layers; the stack has 2"):
        stack(torch.zeros(7, 3, 5), [pair])
    with pytest.raises(ValueError, match=r"State h has shape \(3, 4\); expected \(2, 4\)"):
        stack(torch.zeros(7, 2, 5), [pair, pair])
