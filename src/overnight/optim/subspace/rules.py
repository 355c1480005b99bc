"""Rules that choose the coefficients α of x + D α. Those here look at no loss."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.optim.subspace.subspace import Subspace


def check_range(rule: object, name: str, value: float, lower: float, upper: float) -> None:
    """Raise a UserError unless lower ≤ value ≤ upper."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not lower <= value <= upper:
        raise UserError(
            f"{name}={value!r} of {type(rule).__name__} is out of range.", f"Choose from {lower:g} to {upper:g}."
        )


class CoefficientRule:
    """What every rule is: a frozen set of settings and one function.

    Attributes:
        searches: looks at the loss; the columns are history, anchors and momentum.
        needs_outputs: looks at the model's outputs too.
        keeps_average: reads the row x - A of a running average A.
        keeps_residuals: reads the displacements of the base optimizer alone.
    """

    searches: ClassVar[bool] = False
    needs_outputs: ClassVar[bool] = False
    keeps_average: ClassVar[bool] = False
    keeps_residuals: ClassVar[bool] = False

    def coefficients(self, subspace: Subspace) -> Tensor:
        """α: float64, [C], on the CPU."""
        raise NotImplementedError

    def average_decay(self, outer: int) -> float | None:
        """β of A ← β A + (1 - β) x at this outer iteration, counted from 1."""
        return None

    def least_history(self) -> int:
        """How many past displacements it needs."""
        return 1


@dataclass(frozen=True)
class Fixed(CoefficientRule):
    """Lookahead: z ← z + step · (x - z), z the point of the last time, x where the base optimizer arrived.

    ``Fixed(1.0)`` goes nowhere: training is that of the base optimizer, to the bit.

    Source: Zhang et al. 2019, arXiv 1907.08610.
    """

    step: float = 0.5

    def __post_init__(self) -> None:
        check_range(self, "step", self.step, 0.0, 2.0)

    def coefficients(self, subspace: Subspace) -> Tensor:
        alpha = torch.zeros(subspace.size, dtype=torch.float64)
        alpha[0] = self.step - 1.0
        return alpha


class _RunningAverage(CoefficientRule):
    keeps_average: ClassVar[bool] = True

    def coefficients(self, subspace: Subspace) -> Tensor:
        alpha = torch.zeros(subspace.size, dtype=torch.float64)
        alpha[subspace.history] = -1.0
        return alpha


@dataclass(frozen=True)
class EMA(_RunningAverage):
    """A ← decay · A + (1 - decay) · x over the points x of the outer iterations; A starts where training starts.

    With ``jump=False`` training does not notice it. With a jump it is ``Fixed(1 - decay)``.
    """

    decay: float = 0.9

    def __post_init__(self) -> None:
        check_range(self, "decay", self.decay, 0.0, 1.0)

    def average_decay(self, outer: int) -> float | None:
        return self.decay


@dataclass(frozen=True)
class SWA(_RunningAverage):
    """The mean of the points of all outer iterations after the first ``skip``.

    Source: Izmailov et al. 2018, arXiv 1803.05407.
    """

    skip: int = 0

    def __post_init__(self) -> None:
        check_range(self, "skip", self.skip, 0, 2**53)

    def average_decay(self, outer: int) -> float | None:
        return 1.0 - 1.0 / max(outer - self.skip, 1)


@dataclass(frozen=True)
class LAWA(CoefficientRule):
    """The mean of the newest ``window`` points of outer iterations; fewer while there are fewer.

    Source: Kaddour 2022, arXiv 2209.14981.
    """

    window: int = 6

    def __post_init__(self) -> None:
        check_range(self, "window", self.window, 1, 2**53)

    def least_history(self) -> int:
        return max(self.window - 1, 1)

    def coefficients(self, subspace: Subspace) -> Tensor:
        points = min(self.window, subspace.history + 1)
        alpha = torch.zeros(subspace.size, dtype=torch.float64)
        for age in range(points - 1):
            alpha[age] = -(points - 1 - age) / points
        return alpha


@dataclass(frozen=True)
class Anderson(CoefficientRule):
    """Anderson acceleration of the map z → x that l base steps are.

        θ = argmin ‖Σ θᵢ fᵢ‖² with Σ θᵢ = 1,   z ← Σ θᵢ (zᵢ + mixing · fᵢ),   fᵢ = xᵢ - zᵢ

    Args:
        mixing: 1 takes the base optimizer's points, 0 those that it started from.
        ridge: added to the diagonal of the matrix of their differences' products, as a fraction of it.

    Source: Anderson 1965; for stochastic training Scieur, d'Aspremont and Bach 2016, arXiv 1606.04133.
    """

    mixing: float = 1.0
    ridge: float = 1e-6
    keeps_residuals: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_range(self, "mixing", self.mixing, 0.0, 2.0)
        check_range(self, "ridge", self.ridge, 0.0, float("inf"))

    def coefficients(self, subspace: Subspace) -> Tensor:
        count = subspace.history
        gram = subspace.gram()[count:, count:]
        theta = torch.zeros(count, dtype=torch.float64)
        theta[0] = 1.0
        if count > 1:
            # θ = e₀ + N γ with columns eᵢ₊₁ - eᵢ: the constraint is kept, and a residual that can vanish does
            n = torch.eye(count, dtype=torch.float64).diff(dim=0).t()
            matrix, right = n.t() @ gram @ n, -(n.t() @ gram[:, 0])
            diagonal = matrix.diagonal().clamp(min=0.0)
            scale = torch.where(diagonal > 0, diagonal.rsqrt(), 0.0)
            matrix = matrix * scale[:, None] * scale + self.ridge * torch.eye(count - 1, dtype=torch.float64)
            gamma = torch.linalg.lstsq(matrix, (scale * right)[:, None], driver="gelsd").solution[:, 0]
            theta += n @ (scale * gamma)
        start = theta.flip(0).cumsum(0).flip(0)
        return torch.cat([-start, self.mixing * theta])
