"""Gate maps: how the pre-activations of a recurrent cell come from its input x and its last output h.

A gate map owns the parameters. Once per call it is folded (weight normalisation applied, weights cast), and the folded
form does the work: ``project`` for all time steps at once, ``preactivation`` inside the loop.

Shape suffixes: T time, B batch (lanes), D input width, H hidden, G = 4H gates (order i, f, g, o as in ``nn.LSTM``),
P = width of a projected input, O and I a matrix's output and input width.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.nn.init import recurrent_init_


class Folded(Protocol):
    """A gate map's weights, ready for one call."""

    def project(self, x: Tensor) -> Tensor:
        """x [..., D] → everything that does not depend on h, [..., P]."""

    def preactivation(self, p_BP: Tensor, h_BH: Tensor) -> Tensor:
        """One step: projected input and last output → z [B, 4H]."""


class GateMap(Protocol):
    """What a recurrent layer asks of a gate map."""

    input_size: int
    hidden_size: int

    def fold(self, dtype: torch.dtype) -> Folded:
        """Apply weight normalisation and cast, once per call."""


class Matrix(nn.Module):
    """A weight matrix [O, I] of a recurrent cell, with or without weight normalisation.

    With it, W = g · V / ‖V‖₂ per output row (Salimans & Kingma 2016; Radford et al. 2017 use it on the four matrices of
    the multiplicative LSTM). g starts at ‖V‖, so W starts at V. The norm is taken in at least float32.
    """

    def __init__(self, output_size: int, input_size: int, hidden_size: int, weight_norm: bool, init: str) -> None:
        super().__init__()
        weight_OI = recurrent_init_(torch.empty(output_size, input_size), hidden_size, init)
        self.weight_norm = weight_norm
        if weight_norm:
            self.weight_v = nn.Parameter(weight_OI)
            self.weight_g = nn.Parameter(weight_OI.norm(dim=1))
        else:
            self.weight = nn.Parameter(weight_OI)

    def forward(self) -> Tensor:
        if not self.weight_norm:
            return self.weight
        v_OI = self.weight_v.to(torch.promote_types(self.weight_v.dtype, torch.float32))
        weight_OI: Tensor = (self.weight_g / v_OI.norm(dim=1)).unsqueeze(1) * v_OI
        return weight_OI


@dataclass(frozen=True)
class FoldedDense:
    """z = W x + b + R h."""

    input_weight_GD: Tensor
    hidden_weight_GH: Tensor
    bias_G: Tensor

    def project(self, x: Tensor) -> Tensor:
        return F.linear(x, self.input_weight_GD, self.bias_G)

    def preactivation(self, p_BP: Tensor, h_BH: Tensor) -> Tensor:
        return torch.addmm(p_BP, h_BH, self.hidden_weight_GH.t())


class DenseGates(nn.Module):
    """The LSTM's own map, z = W x + R h + b (Hochreiter & Schmidhuber 1997; equal to ``nn.LSTM`` with one bias)."""

    def __init__(self, input_size: int, hidden_size: int, *, weight_norm: bool = False, init: str = "uniform") -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        gates = 4 * hidden_size
        self.input_to_gates = Matrix(gates, input_size, hidden_size, weight_norm, init)
        self.hidden_to_gates = Matrix(gates, hidden_size, hidden_size, weight_norm, init)
        self.bias = nn.Parameter(torch.zeros(gates))

    def fold(self, dtype: torch.dtype) -> FoldedDense:
        return FoldedDense(self.input_to_gates().to(dtype), self.hidden_to_gates().to(dtype), self.bias.to(dtype))


@dataclass(frozen=True)
class FoldedMultiplicative:
    """p = [W x + b ; W_mx x];  z = p_g + W_m (p_m ⊙ W_mh h)."""

    input_weight_PD: Tensor
    bias_P: Tensor
    hidden_to_m_HH: Tensor
    m_to_gates_GH: Tensor

    def project(self, x: Tensor) -> Tensor:
        return F.linear(x, self.input_weight_PD, self.bias_P)

    def preactivation(self, p_BP: Tensor, h_BH: Tensor) -> Tensor:
        gates = self.m_to_gates_GH.shape[0]
        p_BG, p_BH = p_BP[:, :gates], p_BP[:, gates:]
        m_BH = p_BH * F.linear(h_BH, self.hidden_to_m_HH)
        return torch.addmm(p_BG, m_BH, self.m_to_gates_GH.t())


class MultiplicativeGates(nn.Module):
    """The multiplicative LSTM's map (Krause et al. 2016; Radford et al. 2017):

        m_t = (W_mx x_t) ⊙ (W_mh h_{t-1})
        z_t = W_x x_t + W_m m_t + b

    so h_{t-1} enters only through m_t, and every input byte has its own recurrent matrix, W_m diag(W_mx x) W_mh.
    No bias and no nonlinearity in m. (Not xLSTM's *matrix* LSTM, which is also written mLSTM.)

    Args:
        input_size: D.
        hidden_size: H.
        weight_norm: normalise each of the four matrices per output unit, as the paper does.
        init: see ``overnight.nn.init``.
        forget_bias: start of the forget gate's bias; the paper has 0.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        weight_norm: bool = True,
        init: str = "uniform",
        forget_bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        gates = 4 * hidden_size
        self.input_to_gates = Matrix(gates, input_size, hidden_size, weight_norm, init)
        self.input_to_m = Matrix(hidden_size, input_size, hidden_size, weight_norm, init)
        self.hidden_to_m = Matrix(hidden_size, hidden_size, hidden_size, weight_norm, init)
        self.m_to_gates = Matrix(gates, hidden_size, hidden_size, weight_norm, init)
        self.bias = nn.Parameter(torch.zeros(gates))
        with torch.no_grad():
            self.bias[hidden_size : 2 * hidden_size] = forget_bias

    def fold(self, dtype: torch.dtype) -> FoldedMultiplicative:
        input_weight_PD = torch.cat([self.input_to_gates(), self.input_to_m()])
        bias_P = torch.cat([self.bias, self.bias.new_zeros(self.hidden_size)])
        return FoldedMultiplicative(
            input_weight_PD.to(dtype), bias_P.to(dtype), self.hidden_to_m().to(dtype), self.m_to_gates().to(dtype)
        )
