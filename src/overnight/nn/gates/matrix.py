"""The parameters of a recurrent cell: its weight matrices and its bias."""

import math

import torch
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.init import recurrent_init_


class Matrix(nn.Module):
    """A weight matrix [O, I] of a recurrent cell, or K of them [K, O, I], with or without weight normalisation.

    With it, W = g · V / ‖V‖₂ per output row (Salimans & Kingma 2016; Radford et al. 2017 use it on the four matrices of
    the multiplicative LSTM). g starts at ‖V‖, so W starts at V. The norm is taken in at least float32;
    a row of V that is zero is a row of W that is zero.

    Args:
        output_size: O.
        input_size: I.
        hidden_size: units of the cell, by which ``init`` scales and cuts.
        weight_norm: keep V and g instead of W.
        init: see ``overnight.nn.init``.
        groups: K; None for a single matrix of two dimensions.
    """

    def __init__(
        self,
        output_size: int,
        input_size: int,
        hidden_size: int,
        weight_norm: bool,
        init: str,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        weight = torch.empty(groups or 1, output_size, input_size)
        for weight_OI in weight.unbind():
            recurrent_init_(weight_OI, hidden_size, init)
        if groups is None:
            weight = weight[0]
        self.weight_norm = weight_norm
        if weight_norm:
            self.weight_v = nn.Parameter(weight)
            self.weight_g = nn.Parameter(weight.norm(dim=-1))
        else:
            self.weight = nn.Parameter(weight)

    def forward(self) -> Tensor:
        if not self.weight_norm:
            return self.weight
        v = self.weight_v.to(torch.promote_types(self.weight_v.dtype, torch.float32))
        norm = v.norm(dim=-1)
        # 1 in the place of a norm of 0: a row of zeros stays one, and g, not 1/0, is what its gradient is scaled by
        norm = norm.masked_fill(norm < torch.finfo(v.dtype).tiny, 1)
        weight: Tensor = (self.weight_g / norm).unsqueeze(-1) * v
        return weight

    @torch.no_grad()
    def set_(self, weight: Tensor) -> None:
        """Make W equal to ``weight``, of the same shape."""
        if self.weight_norm:
            norm = weight.norm(dim=-1)
            self.weight_v.copy_(weight)
            self.weight_v[norm == 0] = 1.0  # a direction all the same: g = 0 makes the row zero
            self.weight_g.copy_(norm)
        else:
            self.weight.copy_(weight)


def gate_bias(hidden_size: int, forget_bias: float) -> nn.Parameter:
    """b [4H], zero but for the forget gate's part.

    Raises:
        UserError: unless ``forget_bias`` is a finite number.
    """
    if not math.isfinite(forget_bias):
        raise UserError(f"A gate map cannot have forget_bias={forget_bias}.", "Give a finite number.")
    bias_G = torch.zeros(4 * hidden_size)
    bias_G[hidden_size : 2 * hidden_size] = forget_bias
    return nn.Parameter(bias_G)
