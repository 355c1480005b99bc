"""The F-LSTM's gate map: one low-rank matrix for all gates. Shape suffixes as in ``overnight.nn.gates``."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.gates.matrix import Matrix, gate_bias
from overnight.nn.gates.protocol import width_of_h
from overnight.nn.init import recurrent_init_, spectral_factors

FACTOR_INITS = ("independent", "svd")


@dataclass(frozen=True)
class FoldedFactorized:
    """p = W₁ₓ x;  z = W₂ (p + W₁ₕ h) + b."""

    input_weight_RD: Tensor
    hidden_weight_RN: Tensor
    gates_weight_GR: Tensor
    bias_G: Tensor

    def project(self, x: Tensor) -> Tensor:
        return F.linear(x, self.input_weight_RD)

    def preactivation(self, p_BP: Tensor, h_BN: Tensor) -> Tensor:
        return F.linear(torch.addmm(p_BP, h_BN, self.hidden_weight_RN.t()), self.gates_weight_GR, self.bias_G)


class FactorizedGates(nn.Module):
    """The F-LSTM's map (Kuchaiev & Ginsburg 2017, arXiv 1703.10722), of rank r by design:

        z_t = W₂ (W₁ₓ x_t + W₁ₕ h_{t-1}) + b

    with no bias and no nonlinearity between the factors. Equal to the dense map whose [W, R] is W₂ [W₁ₓ, W₁ₕ].

    Parameters: (D + N) r + 4H r + 4H.

    Args:
        input_size: D.
        hidden_size: H.
        output_size: N, the width of h; None means H. Otherwise h is projected, as in the paper.
        rank: r, at most min(4H, D + N), the rank of the dense map.
        weight_norm: normalise each of the three matrices per output unit; the paper does not.
        init: see ``overnight.nn.init``.
        factor_init: ``independent`` draws each factor by ``init``, W₂ with r in the place of H under ``uniform``, so
            that the product has about the scale of a dense map. ``svd`` is spectral initialisation (Khodak et al.
            2021): draw a dense map by ``init`` and take the factors U√S and √S Vᵀ of its r leading singular vectors.
        forget_bias: start of the forget gate's bias; the paper adds 1 in use.

    Raises:
        UserError: if a size is less than 1, the rank is out of bounds, or ``init`` or ``factor_init`` is not known.

    Example:
        >>> gates = FactorizedGates(4, 8, rank=2)
        >>> sum(parameter.numel() for parameter in gates.parameters())  # (4 + 8) 2 + 32 · 2 + 32
        120
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int | None = None,
        *,
        rank: int,
        weight_norm: bool = False,
        init: str = "uniform",
        factor_init: str = "independent",
        forget_bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.output_size = width_of_h(input_size, hidden_size, output_size)
        gates, widest = 4 * hidden_size, input_size + self.output_size
        if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= min(gates, widest):
            raise UserError(
                f"rank={rank} does not fit gates of {gates} rows over x and h of {widest} columns.",
                f"rank must be from 1 to {min(gates, widest)}; at that rank the map is as general as DenseGates.",
            )
        if factor_init not in FACTOR_INITS:
            raise UserError(f"{factor_init!r} is not a known factor_init.", f"Choose one of {', '.join(FACTOR_INITS)}.")
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.rank = rank
        self.weight_norm = weight_norm
        self.init = init
        self.input_to_rank = Matrix(rank, input_size, hidden_size, weight_norm, init)
        self.hidden_to_rank = Matrix(rank, self.output_size, hidden_size, weight_norm, init)
        self.rank_to_gates = Matrix(gates, rank, rank if init == "uniform" else hidden_size, weight_norm, init)
        if factor_init == "svd":
            blocks = [torch.empty(gates, width) for width in (input_size, self.output_size)]
            self.set_product(torch.cat([recurrent_init_(block, hidden_size, init) for block in blocks], dim=1))
        self.bias = gate_bias(hidden_size, forget_bias)

    def set_product(self, dense_GI: Tensor) -> None:
        """Take the factors U√S and √S Vᵀ of the r leading singular vectors of a dense map of [x, h].

        >>> gates = FactorizedGates(3, 4, rank=7)
        >>> gates.set_product(torch.ones(16, 7))
        >>> round(gates.frobenius_squared().item(), 3)
        112.0
        """
        outer_GR, inner_RI = spectral_factors(dense_GI, self.rank)
        self.rank_to_gates.set_(outer_GR)
        self.input_to_rank.set_(inner_RI[:, : self.input_size])
        self.hidden_to_rank.set_(inner_RI[:, self.input_size :])

    def frobenius_squared(self) -> Tensor:
        """‖W₂ [W₁ₓ, W₁ₕ]‖²_F, from the factors' Gram matrices [R, R]: the dense map's squared norm, never formed.

        Half of it times λ is Frobenius decay: what weight decay of the dense map would be, where decay of the factors
        themselves is that of their product's nuclear norm (Khodak et al. 2021, arXiv 2105.01029, section 3).

        >>> gates = FactorizedGates(3, 4, rank=2)
        >>> dense = gates.rank_to_gates() @ torch.cat([gates.input_to_rank(), gates.hidden_to_rank()], 1)
        >>> torch.allclose(gates.frobenius_squared(), dense.square().sum())
        True
        """
        with torch.autocast(self.bias.device.type, enabled=False):
            outer_GR = self.rank_to_gates()
            inner_RI = torch.cat([self.input_to_rank(), self.hidden_to_rank()], dim=1)
            squared: Tensor = ((outer_GR.t() @ outer_GR) * (inner_RI @ inner_RI.t())).sum()
            return squared

    def fold(self, dtype: torch.dtype) -> FoldedFactorized:
        return FoldedFactorized(
            self.input_to_rank().to(dtype),
            self.hidden_to_rank().to(dtype),
            self.rank_to_gates().to(dtype),
            self.bias.to(dtype),
        )
