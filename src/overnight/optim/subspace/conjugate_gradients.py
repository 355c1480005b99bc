"""Nonlinear conjugate gradients over the coefficients: the rule that SEBOOST was published with."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from overnight.optim.subspace.rules import CoefficientRule, check_range
from overnight.optim.subspace.subspace import Subspace

INSIDE, BEYOND, RATIO = 0.1, 3.0, 100.0
"""How near to the ends of a bracket, how many times beyond it, and how much longer than the last search to go."""


@dataclass(frozen=True)
class NonlinearCG(CoefficientRule):
    """Polak-Ribière conjugate gradients with a line search by Wolfe's conditions, from α = 0.

        p ← -g + max(0, g · (g - g₋) / ‖g₋‖²) p,   F(α + t p) ≤ F(α) + ρ t g·p,   |∂F| ≤ σ |g·p|

    The best point that was evaluated is taken. The published code used Rasmussen's ``minimize`` with 20 iterations, 25
    evaluations and a first trial of 1 / (1 + ‖g‖²) times the gradient: ``NonlinearCG.published()``. Ours interpolates
    by slopes (two of which give the minimum of a quadratic) where that one takes cubics.

    Args:
        max_evaluations: losses with gradient, of the boost batch.
        max_iterations: line searches.
        first_length: ‖α‖ of the first trial, in outer displacements; None for the published one.
        rho: ρ.
        sigma: σ.
        tolerance: stop at this fraction of the first ‖g‖.

    Source: Richardson et al. 2016, arXiv 1609.00629.
    """

    max_evaluations: int = 5
    max_iterations: int = 20
    first_length: float | None = 1.0
    rho: float = 0.01
    sigma: float = 0.5
    tolerance: float = 1e-10
    searches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(self, "max_evaluations", self.max_evaluations, 2, 2**53)
        check_range(self, "max_iterations", self.max_iterations, 1, 2**53)
        check_range(self, "rho", self.rho, 0.0, 1.0)
        check_range(self, "sigma", self.sigma, self.rho, 1.0)
        check_range(self, "tolerance", self.tolerance, 0.0, 1.0)
        if self.first_length is not None:
            check_range(self, "first_length", self.first_length, 1e-300, 1e300)

    @classmethod
    def published(cls) -> "NonlinearCG":
        """With the settings of the authors' code."""
        return cls(max_evaluations=25, max_iterations=20, first_length=None)

    def coefficients(self, subspace: Subspace) -> Tensor:
        search = _Search(subspace, self)
        alpha = torch.zeros(subspace.size, dtype=torch.float64)
        value, gradient = search.evaluate(alpha)
        if not (math.isfinite(value) and bool(gradient.isfinite().all())):
            return alpha
        enough = self.tolerance * float(gradient.norm())
        direction, step = -gradient, None
        for _ in range(self.max_iterations):
            slope = float(gradient @ direction)
            if float(gradient.norm()) <= enough or slope >= 0 or search.left <= 0:
                break
            if step is None:
                length = float(direction.norm())
                step = 1 / (1 + length**2) if self.first_length is None else self.first_length / length
            found = search.along(alpha, direction, value, slope, step)
            if found is None:
                break
            step, value, new = found
            alpha = alpha + step * direction
            conjugate = max(0.0, float(new @ (new - gradient)) / float(gradient @ gradient))
            direction = -new + conjugate * direction
            if float(new @ direction) >= 0:
                direction = -new
            gradient, next_slope = new, float(new @ direction)
            step *= min(RATIO, slope / next_slope) if next_slope < 0 else 1.0
        return search.best


class _Search:
    def __init__(self, subspace: Subspace, rule: NonlinearCG) -> None:
        self._subspace, self._rule = subspace, rule
        self.left = rule.max_evaluations
        self.best, self._lowest = torch.zeros(subspace.size, dtype=torch.float64), math.inf

    def evaluate(self, alpha: Tensor) -> tuple[float, Tensor]:
        self.left -= 1
        value, gradient = self._subspace.value_and_gradient(alpha)
        if value < self._lowest and bool(gradient.isfinite().all()):
            self.best, self._lowest = alpha, value
        return value, gradient

    def along(
        self, alpha: Tensor, direction: Tensor, value: float, slope: float, step: float
    ) -> tuple[float, float, Tensor] | None:
        """Length, loss and gradient of a point that meets the conditions; None if the evaluations run out before."""
        low, low_slope, high, high_slope = 0.0, slope, math.inf, math.nan
        while self.left > 0:
            new, gradient = self.evaluate(alpha + step * direction)
            new_slope = float(gradient @ direction)
            finite = math.isfinite(new) and math.isfinite(new_slope)
            if not finite or new > value + self._rule.rho * step * slope:
                high, high_slope = step, new_slope if finite else math.nan
            elif abs(new_slope) <= -self._rule.sigma * slope:
                return step, new, gradient
            elif new_slope > 0:
                high, high_slope = step, new_slope
            else:
                low, low_slope = step, new_slope
                if math.isinf(high):
                    step = self._beyond(step, slope, new_slope)
                    continue
            step = self._between(low, low_slope, high, high_slope)
        return None

    @staticmethod
    def _beyond(step: float, slope: float, new_slope: float) -> float:
        rise = new_slope - slope
        zero = -slope * step / rise if rise > 0 else math.inf
        return min(max(zero, (1 + INSIDE) * step), BEYOND * step)

    @staticmethod
    def _between(low: float, low_slope: float, high: float, high_slope: float) -> float:
        zero = math.nan
        if high_slope > low_slope:
            zero = low - low_slope * (high - low) / (high_slope - low_slope)
        margin = INSIDE * (high - low)
        return min(max(zero, low + margin), high - margin) if math.isfinite(zero) else (low + high) / 2
