"""The recurrence over every gate map, with and without projection, against the NumPy oracles."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from oracles.lstm import factorized_lstm, grouped_lstm, lstm, multiplicative_lstm, multiplicative_model, weight_norm
from torch import Tensor, nn

from overnight.models.byte_lm import ByteLM
from overnight.nn.gates import DenseGates, FactorizedGates, GateMap, GroupedGates, Matrix, MultiplicativeGates
from overnight.nn.recurrence import Recurrent

SHAPES = [(7, 3, 6, 9, 9), (63, 1, 3, 15, 6), (101, 2, 3, 6, 9), (31, 5, 9, 3, 3)]  # T, B, D, H, N


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


def side_by_side_weights(gates: DenseGates | GroupedGates) -> dict[str, np.ndarray]:
    return {
        "w_x": weight(gates.input_to_gates),
        "w_h": weight(gates.hidden_to_gates),
        "bias": array(gates.bias),
    }


def factorized_weights(gates: FactorizedGates) -> dict[str, np.ndarray]:
    return {
        "w_1x": weight(gates.input_to_rank),
        "w_1h": weight(gates.hidden_to_rank),
        "w_2": weight(gates.rank_to_gates),
        "bias": array(gates.bias),
    }


MAPS: dict[str, tuple[Callable[..., GateMap], Callable[..., Any], Callable[..., dict[str, np.ndarray]]]] = {
    "dense": (DenseGates, lstm, side_by_side_weights),
    "factorized": (partial(FactorizedGates, rank=3), factorized_lstm, factorized_weights),
    "factorized svd": (partial(FactorizedGates, rank=4, factor_init="svd"), factorized_lstm, factorized_weights),
    "grouped": (partial(GroupedGates, groups=3), grouped_lstm, side_by_side_weights),
    "multiplicative": (MultiplicativeGates, multiplicative_lstm, multiplicative_weights),
}


@pytest.mark.parametrize("with_weight_norm", [True, False], ids=["weight norm", "plain"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", MAPS)
def test_recurrence_equals_oracle(name: str, shape: tuple[int, ...], with_weight_norm: bool) -> None:
    make, oracle, weights = MAPS[name]
    time, batch, width, hidden, output = shape
    gates = make(width, hidden, output, weight_norm=with_weight_norm, forget_bias=0.5)
    layer = Recurrent(gates)
    assert (layer.projection is None) == (output == hidden)
    shake(layer)
    x, h, c = torch.randn(time, batch, width), torch.randn(batch, output), torch.randn(batch, hidden)
    reset = torch.rand(time, batch) < 0.2
    projection = None if layer.projection is None else weight(layer.projection)
    expected = oracle(*map(array, (x, h, c)), **weights(gates), reset=reset.numpy(), projection=projection)
    fast = name == "multiplicative" and projection is None
    for path in ("readable", "fast") if fast else ("readable", "auto"):
        layer.path = path
        out, last = layer(x, (h, c), reset)
        for ours, theirs in zip((out, *last), expected, strict=True):
            np.testing.assert_allclose(array(ours), theirs, rtol=1e-12, atol=1e-12, err_msg=path)


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
