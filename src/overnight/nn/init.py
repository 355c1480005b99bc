"""Initial values of recurrent weights, by name."""

import math

import torch
from torch import Tensor

from overnight.errors import UserError

INITS = ("uniform", "orthogonal")


@torch.no_grad()
def recurrent_init_(weight_OI: Tensor, hidden_size: int, init: str) -> Tensor:
    """Fill a weight of a recurrent cell in place.

    - ``uniform``: U(-1/√H, 1/√H), torch's own rule for ``nn.LSTM`` and the one of the reference training code
      (Puri et al. 2018, "Large Scale Language Modeling").
    - ``orthogonal``: every block of ``min(O, I)`` rows is (semi-)orthogonal (Saxe et al. 2014), so that a product
      through the recurrence neither grows nor shrinks at the start.

    Args:
        weight_OI: output width × input width; O may be several gates stacked.
        hidden_size: H of the cell.
        init: one of ``INITS``.

    Raises:
        UserError: for an unknown name.
    """
    if init == "uniform":
        bound = 1.0 / math.sqrt(hidden_size)
        return weight_OI.uniform_(-bound, bound)
    if init == "orthogonal":
        for block in weight_OI.split(hidden_size, dim=0):
            torch.nn.init.orthogonal_(block)
        return weight_OI
    raise UserError(f"{init!r} is not a known initialisation.", f"Choose one of {', '.join(INITS)}.")


@torch.no_grad()
def spectral_factors(weight_OI: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The best approximation of W of rank r, as U√S [O, r] and √S Vᵀ [r, I] (Khodak et al. 2021, arXiv 2105.01029).

    >>> outer, inner = spectral_factors(torch.eye(3), 3)
    >>> torch.allclose(outer @ inner, torch.eye(3))
    True
    """
    left, singular_values, right = torch.linalg.svd(weight_OI, full_matrices=False)
    root = singular_values[:rank].sqrt()
    return left[:, :rank] * root, root.unsqueeze(1) * right[:rank]
