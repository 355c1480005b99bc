"""The LSTM's own gate map. Shape suffixes as in ``overnight.nn.gates``."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.nn.gates.matrix import Matrix, gate_bias
from overnight.nn.gates.protocol import width_of_h


@dataclass(frozen=True)
class FoldedDense:
    """z = W x + b + R h."""

    input_weight_GD: Tensor
    hidden_weight_GN: Tensor
    bias_G: Tensor

    def project(self, x: Tensor) -> Tensor:
        return F.linear(x, self.input_weight_GD, self.bias_G)

    def preactivation(self, p_BP: Tensor, h_BN: Tensor) -> Tensor:
        return torch.addmm(p_BP, h_BN, self.hidden_weight_GN.t())


class DenseGates(nn.Module):
    """The LSTM's own map, z = W x + R h + b (Hochreiter & Schmidhuber 1997; equal to ``nn.LSTM`` with one bias).

    Parameters: (D + N) 4H + 4H.

    Args:
        input_size: D.
        hidden_size: H.
        output_size: N, the width of h; None means H. Otherwise h is projected, as with ``nn.LSTM``'s ``proj_size``.
        weight_norm: normalise both matrices per output unit.
        init: see ``overnight.nn.init``.
        forget_bias: start of the forget gate's bias.

    Raises:
        UserError: if a size is less than 1, or ``init`` is not known.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int | None = None,
        *,
        weight_norm: bool = False,
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
        self.hidden_to_gates = Matrix(gates, self.output_size, hidden_size, weight_norm, init)
        self.bias = gate_bias(hidden_size, forget_bias)

    def fold(self, dtype: torch.dtype) -> FoldedDense:
        return FoldedDense(self.input_to_gates().to(dtype), self.hidden_to_gates().to(dtype), self.bias.to(dtype))
