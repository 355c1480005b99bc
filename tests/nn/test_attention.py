"""Additive attention is its formula, in values and gradients, and padding has no part in it."""

import pytest
import torch
from oracles.attention import additive_attention

from overnight.errors import UserError
from overnight.nn.attention import AdditiveAttention


def made(normalised: bool) -> AdditiveAttention:
    torch.manual_seed(0)
    attention = AdditiveAttention(3, 5, 7, normalised=normalised).double()
    for parameter in attention.parameters():  # a bias of zero and a gain of 1/√A would hide a mistake in them
        torch.nn.init.uniform_(parameter, -1.0, 1.0)
    return attention


@pytest.mark.parametrize("normalised", [True, False])
def test_it_is_its_formula(normalised: bool) -> None:
    attention = made(normalised)
    keys, queries = torch.randn(6, 3, 5).double(), torch.randn(4, 3, 3).double()
    lengths = torch.tensor([6, 1, 4])
    context, weights = attention(queries, attention.memory(keys, lengths))
    gain, bias = attention.gain, attention.bias
    for b, length in enumerate(lengths.tolist()):
        expected, shares = additive_attention(
            queries[:, b].numpy(),
            keys[:length, b].numpy(),
            attention.query.weight.detach().numpy(),
            attention.key.weight.detach().numpy(),
            attention.energy.detach().numpy(),
            None if gain is None else gain.item(),
            None if bias is None else bias.detach().numpy(),
        )
        torch.testing.assert_close(context[:, b].detach(), torch.from_numpy(expected))
        torch.testing.assert_close(weights[:, b, :length].detach(), torch.from_numpy(shares))
        assert (weights[:, b, length:] == 0).all()


@pytest.mark.parametrize("normalised", [True, False])
def test_gradients(normalised: bool) -> None:
    attention = made(normalised)
    keys, queries = torch.randn(4, 2, 5).double(), torch.randn(3, 2, 3).double()
    names = [name for name, _ in attention.named_parameters()]

    def context(keys: torch.Tensor, queries: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        with torch.nn.utils.stateless._reparametrize_module(attention, dict(zip(names, weights, strict=True))):
            found: torch.Tensor = attention(queries, attention.memory(keys, torch.tensor([4, 2])))[0]
        return found

    given = (keys, queries, *(parameter.detach() for parameter in attention.parameters()))
    assert torch.autograd.gradcheck(context, tuple(one.requires_grad_() for one in given))


def test_what_stands_behind_the_end_changes_nothing() -> None:
    attention = made(True)
    keys, queries = torch.randn(5, 1, 5).double(), torch.randn(2, 1, 3).double()
    other = keys.clone()
    other[3:] = 1e30
    first, second = (attention(queries, attention.memory(one, torch.tensor([3])))[0] for one in (keys, other))
    assert torch.equal(first, second)


def test_start_and_size() -> None:
    attention = AdditiveAttention(3, 5, 16)
    assert attention.gain is not None
    assert attention.bias is not None
    assert (attention.gain.item(), attention.bias.abs().sum().item()) == (0.25, 0.0)
    assert sum(p.numel() for p in attention.parameters()) == 16 * (3 + 5 + 1) + 16 + 1
    assert AdditiveAttention(3, 5, 16, gain=2.0).gain.item() == 2.0  # type: ignore[union-attr]
    with pytest.raises(UserError, match="gain of 0 cannot be"):
        AdditiveAttention(3, 5, 16, gain=0)
    with pytest.raises(UserError, match="units=0 cannot be"):
        AdditiveAttention(3, 5, 0)
