"""The G-LSTM's gate map: groups of units that do not see each other. Shape suffixes as in ``overnight.nn.gates``.

Here M = 4H/K is the gates of one group; within a group they stand in the order i, f, g, o, H/K units each.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.gates.matrix import Matrix, gate_bias
from overnight.nn.gates.protocol import whole_number, width_of_h


@dataclass(frozen=True)
class FoldedGrouped:
    """z^j = W^j x^j + b^j + R^j h^j for the groups j, as batched products.

    ``project`` gives its 4H columns group by group, as the products in the loop need them; ``preactivation`` gives z in
    the cell's order: i of all groups, then f, g, o.
    """

    input_weight_KMD: Tensor
    hidden_weight_KMN: Tensor
    bias_KM: Tensor

    def project(self, x: Tensor) -> Tensor:
        groups, _, width = self.input_weight_KMD.shape
        x_KRD = x.reshape(-1, groups, width).transpose(0, 1)
        p_KRM = torch.baddbmm(self.bias_KM.unsqueeze(1), x_KRD, self.input_weight_KMD.transpose(1, 2))
        return p_KRM.transpose(0, 1).reshape(*x.shape[:-1], self.bias_KM.numel())

    def preactivation(self, p_BP: Tensor, h_BN: Tensor) -> Tensor:
        batch = p_BP.shape[0]
        groups, gates, width = self.hidden_weight_KMN.shape
        p_KBM = p_BP.view(batch, groups, gates).transpose(0, 1)
        h_KBN = h_BN.reshape(batch, groups, width).transpose(0, 1)
        z_KBM = torch.baddbmm(p_KBM, h_KBN, self.hidden_weight_KMN.transpose(1, 2))
        return z_KBM.view(groups, batch, 4, gates // 4).permute(1, 2, 0, 3).reshape(batch, groups * gates)


class GroupedGates(nn.Module):
    """The G-LSTM's map (Kuchaiev & Ginsburg 2017, arXiv 1703.10722): x, h and the units cut into k equal slices,

        z^j_t = W^j x^j_t + R^j h^j_{t-1} + b^j,   j = 1 … k

    Equal to the dense map with block-diagonal W and R, of every gate. The groups mix only where h is projected: the
    projection is not grouped. Without one, each group is an LSTM of its own.

    Parameters: ((D + N) 4H) / k + 4H.

    Args:
        input_size: D.
        hidden_size: H.
        output_size: N, the width of h; None means H. Otherwise h is projected, as in the paper.
        groups: k, which divides D, H and N.
        weight_norm: normalise the matrices per output unit; the paper does not.
        init: see ``overnight.nn.init``; a group starts as an LSTM of H/k units would.
        forget_bias: start of the forget gate's bias; the paper adds 1 in use.

    Raises:
        UserError: if a size or ``groups`` is less than 1, ``groups`` does not divide one of the sizes, or ``init`` is
            not known.

    Example:
        >>> gates = GroupedGates(4, 8, groups=2)
        >>> gates.input_to_gates().shape
        torch.Size([2, 16, 2])
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int | None = None,
        *,
        groups: int,
        weight_norm: bool = False,
        init: str = "uniform",
        forget_bias: float = 0.0,
    ) -> None:
        super().__init__()
        self.output_size = width_of_h(input_size, hidden_size, output_size)
        whole_number("groups", groups)
        sizes = {"input_size": input_size, "hidden_size": hidden_size, "output_size": self.output_size}
        uneven = [f"{name}={size}" for name, size in sizes.items() if size % groups]
        if uneven:
            raise UserError(
                f"groups={groups} does not divide {' and '.join(uneven)}.",
                "Each group takes an equal slice of x, h and c.",
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.groups = groups
        self.weight_norm = weight_norm
        self.init = init
        units = hidden_size // groups
        self.input_to_gates = Matrix(4 * units, input_size // groups, units, weight_norm, init, groups)
        self.hidden_to_gates = Matrix(4 * units, self.output_size // groups, units, weight_norm, init, groups)
        self.bias = gate_bias(hidden_size, forget_bias)

    def fold(self, dtype: torch.dtype) -> FoldedGrouped:
        bias_KM = self.bias.view(4, self.groups, -1).transpose(0, 1).reshape(self.groups, -1)
        return FoldedGrouped(self.input_to_gates().to(dtype), self.hidden_to_gates().to(dtype), bias_KM.to(dtype))
