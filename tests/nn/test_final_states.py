"""Many texts of unequal length against each of them read alone: order, packing, memory, bad input."""

from typing import Any

import pytest
import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.models.byte_lm import ByteLM
from overnight.nn import final_states as module
from overnight.nn.final_states import final_states
from overnight.nn.gates import DenseGates, FactorizedGates, GroupedGates, MultiplicativeGates
from overnight.nn.recurrence import Recurrent
from overnight.nn.stack import RecurrentStack

LENGTHS = [3, 17, 0, 8, 1, 9, 8, 40, 0, 16, 7, 2, 24, 5]


def stack() -> RecurrentStack:
    torch.manual_seed(0)
    maps = [GroupedGates(6, 12, 9, groups=3), FactorizedGates(9, 10, rank=4), MultiplicativeGates(10, 8, 5)]
    return RecurrentStack([*maps, DenseGates(5, 7)]).double()


def texts() -> list[Tensor]:
    return [torch.randn(length, 6, dtype=torch.float64) for length in LENGTHS]


@pytest.mark.parametrize("lanes", [1, 3, 4, 100])
@pytest.mark.parametrize("window", [1, 8, 100])
def test_every_text_as_if_read_alone(lanes: int, window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SORTED_BATCHES", 2)
    network, given = stack(), texts()
    found = list(final_states(lambda x, s, r: network(x, s, r)[1], iter(given), lanes=lanes, window=window))
    assert len(found) == len(given)
    for text, state in zip(given, found, strict=True):
        _, alone = network(text.unsqueeze(1))
        for ours, theirs in zip(state, alone, strict=True):
            assert not any(part.requires_grad for part in ours)
            torch.testing.assert_close(ours, tuple(part[0].detach() for part in theirs), rtol=0, atol=1e-13)


def test_a_byte_models_carry() -> None:
    torch.manual_seed(0)
    model = ByteLM(16, 4, layers=2).double()
    given = [torch.randint(256, (length,)) for length in LENGTHS]
    found = list(final_states(lambda ids, carry, r: model.hidden(ids, carry, r)[1], given, lanes=4, window=8))
    for text, state in zip(given, found, strict=True):
        _, alone = model.hidden(text.unsqueeze(1))
        torch.testing.assert_close(state, {name: part[0].detach() for name, part in alone.items()})
        assert state["c"].shape == (2, 16)


def test_autocast() -> None:
    layer = Recurrent(MultiplicativeGates(6, 12, 9))
    given = [text.float() for text in texts()]
    with torch.autocast("cpu", torch.bfloat16):
        found = list(final_states(lambda x, s, r: layer(x, s, r)[1], given, lanes=4, window=8))
    assert {(h.dtype, c.dtype) for h, c in found} == {(torch.bfloat16, torch.float32)}
    for text, (_, c) in zip(given, found, strict=True):
        torch.testing.assert_close(c, layer(text.unsqueeze(1))[1][1][0].detach(), rtol=0, atol=2**-5)


def test_lanes_join_when_their_text_begins_and_texts_are_taken_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SORTED_BATCHES", 2)
    network, taken, shapes = Recurrent(DenseGates(1, 2)), [], []

    def source() -> Any:
        for length in [4, 20, 10, 21] * 50:
            taken.append(length)
            yield torch.zeros(length, 1)

    def read(x: Tensor, state: Any, reset: Tensor) -> Any:
        shapes.append(tuple(x.shape[:2]))
        return network(x, state, reset)[1]

    states = final_states(read, source(), lanes=2, window=8)
    assert not taken, "nothing is read before it is asked for"
    next(states)
    assert taken == [4, 20, 10, 21]
    assert shapes == [(0, 2), (5, 2), (8, 2), (8, 2), (0, 2), (2, 1), (8, 2)]
    assert torch.is_grad_enabled()
    states.close()


def test_no_texts() -> None:
    assert list(final_states(lambda x, s, r: pytest.fail("nothing to read"), [])) == []


@pytest.mark.parametrize("name", ["lanes", "window"])
def test_settings_out_of_range_are_named_at_once(name: str) -> None:
    with pytest.raises(UserError, match=f"{name}=0 reads nothing"):
        final_states(lambda x, s, r: None, [], **{name: 0})


@pytest.mark.parametrize(
    ("odd", "problem"),
    [
        (torch.zeros(3, 5), r"Text 1 is torch.float32 of shape \(3, 5\); expected torch.float32 of shape \('T', 6\)"),
        (torch.zeros(3, 6, dtype=torch.float64), "Text 1 is torch.float64"),
        (torch.tensor(1.0), r"Text 1 is torch.float32 of shape \(\)"),
    ],
)
def test_a_text_unlike_the_first_is_named(odd: Tensor, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        list(final_states(lambda x, s, r: None, [torch.zeros(2, 6), odd]))
