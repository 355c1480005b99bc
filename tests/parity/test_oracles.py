"""The readable recurrence against the NumPy oracles, and against torch's own LSTM."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from oracles.lstm import lstm, multiplicative_lstm, multiplicative_model, weight_norm
from torch import Tensor, nn

from overnight.models.byte_lm import ByteLM
from overnight.nn.gates import DenseGates, Matrix, MultiplicativeGates
from overnight.nn.recurrence import Recurrent

SHAPES = [(7, 3, 5, 9), (63, 1, 4, 7), (101, 2, 3, 5)]  # T, B, D, H


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy().copy()


def weight(matrix: Matrix) -> np.ndarray:
    if matrix.weight_norm:
        return weight_norm(array(matrix.weight_v), array(matrix.weight_g))
    return array(matrix.weight)


def shake(module: nn.Module) -> None:
    """Move every parameter off its starting point, so that gains differ from norms and biases from 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def multiplicative_weights(gates: MultiplicativeGates) -> dict[str, np.ndarray]:
    return {
        "w_x": weight(gates.input_to_gates),
        "w_mx": weight(gates.input_to_m),
        "w_mh": weight(gates.hidden_to_m),
        "w_m": weight(gates.m_to_gates),
        "bias": array(gates.bias),
    }


@pytest.mark.parametrize("with_weight_norm", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_multiplicative_lstm_equals_oracle(shape: tuple[int, ...], with_weight_norm: bool) -> None:
    time, batch, width, hidden = shape
    gates = MultiplicativeGates(width, hidden, weight_norm=with_weight_norm, forget_bias=0.5)
    shake(gates)
    x, h, c = torch.randn(time, batch, width), torch.randn(batch, hidden), torch.randn(batch, hidden)
    reset = torch.rand(time, batch) < 0.2
    for path in ("readable", "fast"):
        out, last = Recurrent(gates, path)(x, (h, c), reset)
        expected = multiplicative_lstm(*map(array, (x, h, c)), **multiplicative_weights(gates), reset=reset.numpy())
        for ours, theirs in zip((out, *last), expected, strict=True):
            np.testing.assert_allclose(array(ours), theirs, rtol=1e-12, atol=1e-12, err_msg=path)


@pytest.mark.parametrize("with_weight_norm", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_dense_lstm_equals_oracle(shape: tuple[int, ...], with_weight_norm: bool) -> None:
    time, batch, width, hidden = shape
    gates = DenseGates(width, hidden, weight_norm=with_weight_norm)
    shake(gates)
    x, h, c = torch.randn(time, batch, width), torch.randn(batch, hidden), torch.randn(batch, hidden)
    reset = torch.rand(time, batch) < 0.2
    out, last = Recurrent(gates)(x, (h, c), reset)
    expected = lstm(
        *map(array, (x, h, c)),
        weight(gates.input_to_gates),
        weight(gates.hidden_to_gates),
        array(gates.bias),
        reset.numpy(),
    )
    for ours, theirs in zip((out, *last), expected, strict=True):
        np.testing.assert_allclose(array(ours), theirs, rtol=1e-12, atol=1e-12)


def test_model_equals_oracle() -> None:
    model = ByteLM(hidden_size=9, embedding_size=4, layers=2)
    shake(model)
    ids = torch.randint(256, (31, 3))
    carry = {name: part.double() for name, part in model.initial_carry(3).items()}
    logits, _ = model(ids, carry)
    expected = multiplicative_model(
        ids.numpy(),
        array(model.embedding.weight),
        [multiplicative_weights(layer.gates) for layer in model.layers],
        array(model.output.weight),
        array(model.output.bias),
    )
    np.testing.assert_allclose(array(logits), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_dense_lstm_equals_torch_in_outputs_and_gradients(shape: tuple[int, ...]) -> None:
    time, batch, width, hidden = shape
    gates, theirs = DenseGates(width, hidden), nn.LSTM(width, hidden)
    shake(gates)
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(gates.input_to_gates.weight)
        theirs.weight_hh_l0.copy_(gates.hidden_to_gates.weight)
        theirs.bias_ih_l0.copy_(gates.bias)
        theirs.bias_hh_l0.zero_()
    shapes = [(time, batch, width), (batch, hidden), (batch, hidden)]
    inputs = [torch.randn(shape) for shape in shapes]
    weights = [torch.randn(shape) for shape in [(time, batch, hidden), *shapes[1:]]]
    results = []
    for ours in (True, False):
        x, h, c = (part.clone().requires_grad_() for part in inputs)
        if ours:
            out, last = Recurrent(gates)(x, (h, c))
            parameters = [gates.input_to_gates.weight, gates.hidden_to_gates.weight, gates.bias]
        else:
            out, last = theirs(x, (h[None], c[None]))
            parameters = [theirs.weight_ih_l0, theirs.weight_hh_l0, theirs.bias_ih_l0]
        outputs = [out, *(part.view(batch, hidden) for part in last)]
        loss = sum((part * factor).sum() for part, factor in zip(outputs, weights, strict=True))
        results.append([*outputs, *torch.autograd.grad(loss, [x, h, c, *parameters])])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)
