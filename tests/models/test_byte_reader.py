"""The reader of many texts is the model: states, resets, layers, dtypes, and the window as one call."""

import pytest
import torch

from overnight.models.byte_lm import ByteLM
from overnight.models.byte_reader import ByteReader


def model(layers: int, weight_norm: bool = True) -> ByteLM:
    torch.manual_seed(0)
    return ByteLM(hidden_size=33, embedding_size=7, layers=layers, weight_norm=weight_norm)


def resets(time: int, lanes: int) -> torch.Tensor:
    reset_TB = torch.zeros(time, lanes, dtype=torch.bool)
    reset_TB[0, 1] = reset_TB[9, 0] = reset_TB[9, 2] = reset_TB[17, 1] = True
    return reset_TB


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("weight_norm", [True, False])
@pytest.mark.parametrize("window", [False, True])
def test_it_is_the_model(layers: int, weight_norm: bool, window: bool) -> None:
    network = model(layers, weight_norm).double()
    ids, reset = torch.randint(256, (40, 3)), resets(40, 3)
    _, expected = network.hidden(ids, None, reset)
    reader = ByteReader(network)
    read = reader._window if window else reader.read  # what a CUDA device takes, and a CPU
    with torch.no_grad():
        found = read(ids[11:], read(ids[:11], reader.zeros(3), reset[:11]), reset[11:])
    for layer, (h, c) in enumerate(found):
        torch.testing.assert_close(h, expected["h"][:, layer].double(), rtol=0, atol=1e-6)
        torch.testing.assert_close(c, expected["c"][:, layer].detach(), rtol=0, atol=1e-12)
        assert not c.requires_grad


def test_every_step() -> None:
    network = model(2)
    ids = torch.randint(256, (12, 3), dtype=torch.uint8)
    reader = ByteReader(network)
    for t, state in enumerate(reader.steps(ids, reader.zeros(3), resets(18, 3)[:12])):
        assert torch.is_grad_enabled()
        _, expected = network.hidden(ids[: t + 1].long(), None, resets(18, 3)[: t + 1])
        torch.testing.assert_close(state[-1][1], expected["c"][:, 1].detach(), rtol=0, atol=1e-6)


def test_the_state_that_is_given_is_left_alone() -> None:
    reader = ByteReader(model(1))
    before = reader.read(torch.randint(256, (5, 2)), reader.zeros(2))
    kept = [part.clone() for part in before[0]]
    reader.read(torch.randint(256, (5, 2)), before)
    assert all(torch.equal(a, b) for a, b in zip(kept, before[0], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(kept, reader.read(torch.empty(0, 2), before)[0], strict=True))


def test_bf16_is_near_and_lower_layers_stand_alone() -> None:
    network = model(2)
    ids = torch.randint(256, (60, 5))
    _, expected = network.hidden(ids)
    near = ByteReader(network, torch.bfloat16, layers=1)
    ((h, c),) = near.read(ids, near.zeros(5))
    assert (h.dtype, c.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(c, expected["c"][:, 0].detach(), rtol=0, atol=0.01)


@pytest.mark.parametrize("weight_norm", [True, False])
def test_it_keeps_its_own_weights(weight_norm: bool) -> None:
    network = model(2, weight_norm)
    ids, reader = torch.randint(256, (6, 2)), ByteReader(network)
    before = reader.read(ids, reader.zeros(2))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(0.1)
    assert torch.equal(reader.read(ids, reader.zeros(2))[-1][1], before[-1][1])
