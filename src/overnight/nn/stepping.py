"""Recurrent layers one time step at a time, for generation. Shape suffixes as in ``overnight.nn.gates``.

A layer's own call normalises and casts its weights, which is nothing beside a sequence and most of the time beside a
single step. Here that is done once.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor

from overnight.nn.fast.packed import PackedMatrix, can_pack
from overnight.nn.gates import Folded, FoldedMultiplicative
from overnight.nn.recurrence import Recurrent, cell, check_call
from overnight.nn.stack import RecurrentStack, State

LaneFixed = tuple[Tensor, Tensor, Tensor]
"""Lanes and units, int64, and the float32 values of these units' cell states in these lanes, all of one length."""

_PACKED_ROWS = 32
"""Lanes that packed weights are laid out for; this layout was the fastest or nearly so from 1 lane to 64."""


class FoldedLayer:
    """One layer's weights, folded: p and (h, c) → (h, c) of the next step.

    It keeps copies, so later changes of the layer do not reach it.

    Args:
        layer: with its projection, if it has one.
        dtype: of the products and of h; c is float32 or wider.
        fixed: unit → value that its cell state is set to in every step, before h is taken from it.
    """

    @torch.no_grad()
    def __init__(self, layer: Recurrent, dtype: torch.dtype, fixed: Mapping[int, float] | None = None) -> None:
        folded = layer.gates.fold(dtype)
        self.folded: Folded
        if isinstance(folded, FoldedMultiplicative) and can_pack(folded.m_to_gates_GH):
            self.folded = _PackedMultiplicative(folded)
        else:
            # a weight that is neither normalised nor cast would still be the layer's own
            self.folded = deepcopy(folded)
        self.projection_NH = None if layer.projection is None else deepcopy(layer.projection().to(dtype))
        self.dtype, self.wide = dtype, torch.promote_types(dtype, torch.float32)
        device = next(layer.parameters()).device
        self._units = torch.tensor(list(fixed or {}), dtype=torch.long, device=device)
        self._values = torch.tensor(list((fixed or {}).values()), dtype=self.wide, device=device)

    def step(self, p_BP: Tensor, state: State, lane_fixed: LaneFixed | None = None) -> State:
        """One step from ``self.folded.project(x)``; ``lane_fixed`` are units fixed in single lanes, in this step."""
        h_BN, c_BH = state
        z_BG = self.folded.preactivation(p_BP, h_BN.to(self.dtype))
        h_BH, c_BH = cell(z_BG, c_BH.to(self.wide))
        if len(self._units):
            c_BH[:, self._units] = self._values
            o_BG = z_BG.chunk(4, dim=-1)[3].to(self.wide)
            h_BH[:, self._units] = torch.sigmoid(o_BG[:, self._units]) * torch.tanh(self._values)
        if lane_fixed is not None:
            lanes, units, values = lane_fixed
            c_BH[lanes, units] = values
            o_BG = z_BG.chunk(4, dim=-1)[3].to(self.wide)
            h_BH[lanes, units] = torch.sigmoid(o_BG[lanes, units]) * torch.tanh(values)
        h_BH = h_BH.to(self.dtype)
        return (h_BH if self.projection_NH is None else F.linear(h_BH, self.projection_NH)), c_BH


class _PackedMultiplicative:
    """``FoldedMultiplicative`` with its recurrent weights laid out for oneDNN: the same function."""

    def __init__(self, folded: FoldedMultiplicative) -> None:
        self.input_weight_PD, self.bias_P = folded.input_weight_PD.clone(), folded.bias_P.clone()
        self.gates = len(folded.m_to_gates_GH)
        self.hidden_to_m = PackedMatrix(folded.hidden_to_m_HH, _PACKED_ROWS)
        self.m_to_gates = PackedMatrix(folded.m_to_gates_GH, _PACKED_ROWS)

    def project(self, x: Tensor) -> Tensor:
        return F.linear(x, self.input_weight_PD, self.bias_P)

    def preactivation(self, p_BP: Tensor, h_BN: Tensor) -> Tensor:
        p_BG, p_BH = p_BP[:, : self.gates], p_BP[:, self.gates :]
        return self.m_to_gates.add(p_BG.contiguous(), p_BH * self.hidden_to_m(h_BN))


class RecurrentStepper:
    """The inference form of a stack of recurrent layers: the same function, one step of every lane a call, no dropout.

    Args:
        stack: the layers, or a single one; they are copied, not changed.
        dtype: of the products; None means the weights' own. ``torch.bfloat16`` halves the memory that a step reads.

    Example:
        >>> from overnight.nn.gates import DenseGates
        >>> stepper = RecurrentStepper(RecurrentStack([DenseGates(8, 32, 8), DenseGates(8, 16)]))
        >>> state = stepper.initial_state(2)
        >>> for x in torch.randn(5, 2, 8):
        ...     h, state = stepper.step(x, state)
        >>> h.shape, len(state)
        (torch.Size([2, 16]), 2)
    """

    def __init__(self, stack: RecurrentStack | Recurrent, dtype: torch.dtype | None = None) -> None:
        weight = next(stack.parameters())
        modules = [stack] if isinstance(stack, Recurrent) else stack.layers
        layers = [layer for layer in modules if isinstance(layer, Recurrent)]
        self.dtype, self.device = dtype or weight.dtype, weight.device
        self._gates = [layer.gates for layer in layers]
        self._layers = [FoldedLayer(layer, self.dtype) for layer in layers]

    def initial_state(self, batch: int) -> tuple[State, ...]:
        """Zeros: (h [B, N], c [B, H]) of every layer, bottom first."""
        return tuple(
            (
                torch.zeros(batch, gates.output_size, dtype=self.dtype, device=self.device),
                torch.zeros(batch, gates.hidden_size, dtype=layer.wide, device=self.device),
            )
            for gates, layer in zip(self._gates, self._layers, strict=True)
        )

    @torch.no_grad()
    def step(self, x_BD: Tensor, state: Sequence[State]) -> tuple[Tensor, tuple[State, ...]]:
        """x [B, D] and (h, c) of every layer → the top layer's h [B, N] and the new (h, c) of every layer.

        Args:
            x_BD: floating point.
            state: as ``RecurrentStack`` and ``initial_state`` give it; a single layer's stands alone in a sequence.

        Raises:
            ValueError: for a state of another number of layers, or an input or state of a wrong shape or kind.
        """
        if len(state) != len(self._layers):
            raise ValueError(f"The state is of {len(state)} layers; the stack has {len(self._layers)}.")
        new: list[State] = []
        with torch.autocast(x_BD.device.type, enabled=False):
            for gates, layer, last in zip(self._gates, self._layers, state, strict=True):
                check_call(x_BD.unsqueeze(0), last, None, gates)
                new.append(layer.step(layer.folded.project(x_BD.to(self.dtype)), last))
                x_BD = new[-1][0]
        return x_BD, tuple(new)
