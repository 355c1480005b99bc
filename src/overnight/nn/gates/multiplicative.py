"""The multiplicative LSTM's gate map. Shape suffixes as in ``overnight.nn.gates``."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.nn.gates.matrix import Matrix, gate_bias
from overnight.nn.gates.protocol import width_of_h


@dataclass(frozen=True)
class FoldedMultiplicative:
    """p = [W x + b ; W_mx x];  z = p_g + W_m (p_m ⊙ W_mh h).

    ``hidden_to_m_HH`` is [H, N] where h is projected.
    """

    input_weight_PD: Tensor
    bias_P: Tensor
    hidden_to_m_HH: Tensor
    m_to_gates_GH: Tensor

    def project(self, x: Tensor) -> Tensor:
        return F.linear(x, self.input_weight_PD, self.bias_P)

    def preactivation(self, p_BP: Tensor, h_BN: Tensor) -> Tensor:
        gates = self.m_to_gates_GH.shape[0]
        p_BG, p_BH = p_BP[:, :gates], p_BP[:, gates:]
        m_BH = p_BH * F.linear(h_BN, self.hidden_to_m_HH)
        return torch.addmm(p_BG, m_BH, self.m_to_gates_GH.t())


class MultiplicativeGates(nn.Module):
    """The multiplicative LSTM's map (Krause et al. 2016; Radford et al. 2017):

        m_t = (W_mx x_t) ⊙ (W_mh h_{t-1})
        z_t = W_x x_t + W_m m_t + b

    so h_{t-1} enters only through m_t, and every input byte has its own recurrent matrix, W_m diag(W_mx x) W_mh.
    No bias and no nonlinearity in m. (Not xLSTM's *matrix* LSTM, which is also written mLSTM.)

    Parameters: (D + H) 4H + (D + N) H + 4H.

    Args:
        input_size: D.
        hidden_size: H.
        output_size: N, the width of h; None means H. Otherwise h is projected; the paper does not.
        weight_norm: normalise each of the four matrices per output unit, as the paper does.
        init: see ``overnight.nn.init``.
        forget_bias: start of the forget gate's bias; the paper has 0.

    Raises:
        UserError: if a size is less than 1, or ``init`` is not known.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int | None = None,
        *,
        weight_norm: bool = True,
        init: str = "uniform",
        forget_bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.output_size = width_of_h(input_size, hidden_size, output_size)
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.weight_norm = weight_norm
        self.init = init
        gates = 4 * hidden_size
        self.input_to_gates = Matrix(gates, input_size, hidden_size, weight_norm, init)
        self.input_to_m = Matrix(hidden_size, input_size, hidden_size, weight_norm, init)
        self.hidden_to_m = Matrix(hidden_size, self.output_size, hidden_size, weight_norm, init)
        self.m_to_gates = Matrix(gates, hidden_size, hidden_size, weight_norm, init)
        self.bias = gate_bias(hidden_size, forget_bias)

    def fold(self, dtype: torch.dtype) -> FoldedMultiplicative:
        input_weight_PD = torch.cat([self.input_to_gates(), self.input_to_m()])
        bias_P = torch.cat([self.bias, self.bias.new_zeros(self.hidden_size)])
        return FoldedMultiplicative(
            input_weight_PD.to(dtype), bias_P.to(dtype), self.hidden_to_m().to(dtype), self.m_to_gates().to(dtype)
        )
