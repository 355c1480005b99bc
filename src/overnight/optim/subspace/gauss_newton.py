"""One damped Gauss-Newton step over the coefficients."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.optim.subspace.rules import CoefficientRule, check_range
from overnight.optim.subspace.subspace import Subspace

SINGULAR = 1e-10
"""Eigenvalues below this times the largest are taken for zero: along them nothing is known."""


@dataclass(frozen=True)
class GaussNewton(CoefficientRule):
    """α = -(G + damping · diag G)⁻¹ Dᵀ∇F with G = Dᵀ Jᵀ (∂²L) J D, J the Jacobian of the model's outputs.

    No backward pass through the model: C forward-mode products J d give gradient and matrix together, and one solve of
    C × C replaces the line searches. While the loss at α is not lower than at 0, the damping grows tenfold.

    Args:
        damping: Levenberg-Marquardt's, relative to the diagonal.
        tries: forward passes at most, to check.
        products: ``forward`` mode, or central ``differences`` where an operation has none or parameters are sharded.
        difference: step of these in α, whose unit is an outer displacement.

    Source: as SESOP's Newton method in the subspace, Narkiss and Zibulevsky 2005, with Gauss-Newton's matrix.
    """

    damping: float = 1e-3
    tries: int = 3
    products: str = "forward"
    difference: float = 1e-2
    searches: ClassVar[bool] = True
    needs_outputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(self, "damping", self.damping, 0.0, 1e300)
        check_range(self, "tries", self.tries, 1, 2**53)
        check_range(self, "difference", self.difference, 1e-300, 1.0)
        if self.products not in ("forward", "differences"):
            raise UserError(f"products={self.products!r} is unknown.", "Choose forward or differences.")

    def coefficients(self, subspace: Subspace) -> Tensor:
        sharded = any(hasattr(weight.parameter, "to_local") for weight in subspace.weights)
        differences = self.difference if sharded or self.products == "differences" else None
        value, gradient, matrix = subspace.gauss_newton(differences)
        nowhere = torch.zeros_like(gradient)
        if not (bool(gradient.isfinite().all()) and bool(matrix.isfinite().all())):
            return nowhere
        damping = self.damping
        for _ in range(self.tries):
            alpha = solve(matrix, gradient, damping)
            if subspace.value(alpha) < value:
                return alpha
            damping = max(10 * damping, 1e-3)
        return nowhere


def solve(matrix: Tensor, gradient: Tensor, damping: float) -> Tensor:
    """-(G + damping · diag G)⁻¹ g for a symmetric G ≥ 0, and 0 along what G does not see.

    >>> solve(torch.tensor([[2.0, 0.0], [0.0, 0.0]]).double(), torch.tensor([1.0, 1.0]).double(), 0.0)
    tensor([-0.5000, -0.0000], dtype=torch.float64)
    """
    diagonal = matrix.diagonal().clamp(min=0.0)
    scale = torch.where(diagonal > 0, diagonal.rsqrt(), 0.0)
    values, vectors = torch.linalg.eigh(matrix * scale[:, None] * scale)
    inverse = torch.where(values > SINGULAR * values.max(), 1 / (values + damping), 0.0)
    step: Tensor = -scale * (vectors @ (inverse * (vectors.t() @ (scale * gradient))))
    return step
