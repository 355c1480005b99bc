"""Additive attention: where in a source to look for the next word.

Shape suffixes: T source steps, U target steps, B sentences, K width of keys, Q width of queries, A units.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.errors import UserError


@dataclass(frozen=True)
class Memory:
    """What is attended to, projected once for all queries.

    Attributes:
        keys_BTK: the encoder's outputs.
        projected_BTA: U k + b.
        padding_BT: True where there is no word.
    """

    keys_BTK: Tensor
    projected_BTA: Tensor
    padding_BT: Tensor

    def take(self, rows_N: Tensor) -> "Memory":
        """The memory of these sentences, in this order."""
        return Memory(*(part.index_select(0, rows_N) for part in (self.keys_BTK, self.projected_BTA, self.padding_BT)))


class AdditiveAttention(nn.Module):
    """Bahdanau et al. 2015 (arXiv 1409.0473), with the energy's vector normalised as in weight normalisation:

        e_ut = g vᵀ/‖v‖ tanh(W q_u + U k_t + b);   α_u = softmax over the words t;   context_u = Σ_t α_ut k_t

    Without ``normalised`` it is vᵀ tanh(W q + U k), Bahdanau's own.

    Args:
        query_size, key_size: Q and K.
        units: A.
        normalised: with g and b; b starts at zero.
        gain: where g starts; None is 1/√A, as in GNMT v2. Energies are within ±g √A, so that this looks at all words
            alike for a long time: a run of a thousand updates wants 1.
        init_range: W, U and v start in U(-a, a).

    Parameters: A (Q + K + 1), and A + 1 more where it is normalised.

    Raises:
        UserError: for sizes below 1, or a gain that is no number above 0.

    >>> attention = AdditiveAttention(4, 6, 8)
    >>> memory = attention.memory(torch.randn(5, 2, 6), torch.tensor([5, 3]))
    >>> context, weights = attention(torch.randn(7, 2, 4), memory)
    >>> context.shape, weights.shape, float(weights[:, 1, 3:].detach().sum())
    (torch.Size([7, 2, 6]), torch.Size([7, 2, 5]), 0.0)
    """

    def __init__(
        self,
        query_size: int,
        key_size: int,
        units: int,
        *,
        normalised: bool = True,
        gain: float | None = None,
        init_range: float = 0.1,
    ) -> None:
        super().__init__()
        if gain is not None and not 0 < gain < math.inf:
            raise UserError(f"An attention's gain of {gain} cannot be.", "Take a number above 0, or None for 1/√units.")
        for name, size in (("query_size", query_size), ("key_size", key_size), ("units", units)):
            if size < 1:
                raise UserError(f"{name}={size} cannot be.", "It must be at least 1.")
        self.query = nn.Linear(query_size, units, bias=False)
        self.key = nn.Linear(key_size, units, bias=False)
        self.energy = nn.Parameter(torch.empty(units))
        self.gain = nn.Parameter(torch.full((1,), gain or units**-0.5)) if normalised else None
        self.bias = nn.Parameter(torch.zeros(units)) if normalised else None
        for weight in (self.query.weight, self.key.weight, self.energy):
            nn.init.uniform_(weight, -init_range, init_range)

    def memory(self, keys_TBK: Tensor, length_B: Tensor) -> Memory:
        """Prepare keys for any number of queries.

        Args:
            keys_TBK: one key a word; what stands behind a sentence's end is not looked at, but must be finite.
            length_B: words of each sentence, at least 1.
        """
        keys_BTK = keys_TBK.transpose(0, 1).contiguous()
        projected_BTA = self.key(keys_BTK)
        if self.bias is not None:
            projected_BTA = projected_BTA + self.bias.to(projected_BTA.dtype)
        steps_T = torch.arange(len(keys_TBK), device=keys_TBK.device)
        return Memory(keys_BTK, projected_BTA, steps_T >= length_B.unsqueeze(1))

    def forward(self, query_UBQ: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Queries → context [U, B, K] in the keys' dtype, and the weights [U, B, T], float32 or wider.

        Memory: B·U·T·A values, of the products' dtype, are kept for the backward.
        """
        query_BUA = self.query(query_UBQ.transpose(0, 1))
        energy_A = self.energy
        if self.gain is not None:
            energy_A = self.gain * energy_A / energy_A.norm()
        hidden_BUTA = (query_BUA.unsqueeze(2) + memory.projected_BTA.unsqueeze(1)).tanh_()
        energy_BUT = F.linear(hidden_BUTA, energy_A.unsqueeze(0)).squeeze(3)
        energy_BUT = energy_BUT.to(torch.promote_types(energy_BUT.dtype, torch.float32))
        energy_BUT = energy_BUT.masked_fill(memory.padding_BT.unsqueeze(1), -torch.inf)
        weights_BUT = torch.softmax(energy_BUT, -1)
        context_BUK = torch.bmm(weights_BUT.to(memory.keys_BTK.dtype), memory.keys_BTK)
        return context_BUK.transpose(0, 1), weights_BUT.transpose(0, 1)
