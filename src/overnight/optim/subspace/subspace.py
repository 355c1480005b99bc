"""The problem that a coefficient rule solves: a loss, or only lengths and angles, over x + D α."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.optim.subspace.buffer import DisplacementBuffer, Layout, Weight
from overnight.optim.subspace.closure import BoostClosure

DEPENDENT = 1e-6
"""Directions whose share of the correlation matrix is below this times the largest are dropped."""


@dataclass
class Subspace:
    """x + D α around the weights x where the base optimizer arrived. D's columns are combinations of the buffer's rows.

    Attributes:
        buffer: of the rows.
        weights: what is moved.
        columns: T of D = rows · T: float64, [rows, C].
        closure: of the boost batch; None where no loss was given.
        ridge: ρ; the loss that rules see has ½ ρ ‖α‖² added.
        history: how many of the first columns are past displacements, the newest first.
        losses: without the ridge, by the coefficients where they were evaluated.
        at: α of where the weights are now, if that is known.
    """

    buffer: DisplacementBuffer
    weights: Sequence[Weight]
    columns: Tensor
    closure: BoostClosure | None
    ridge: float = 0.0
    history: int = 0
    losses: dict[tuple[float, ...], float] = field(default_factory=dict)
    at: Tensor | None = None

    @property
    def size(self) -> int:
        """C, the length of α."""
        return self.columns.shape[1]

    def move(self, alpha: Tensor) -> None:
        """Set the weights to x + D α, if they are not there."""
        if self.at is None or not torch.equal(self.at, alpha):
            self.at = None
            self.buffer.move(self.weights, self.columns @ alpha)
            self.at = alpha.clone()

    def value(self, alpha: Tensor) -> float:
        """Loss with ridge, by a forward pass."""
        assert self.closure is not None
        self.move(alpha)
        return self._note(alpha, self.closure())

    def value_and_gradient(self, alpha: Tensor) -> tuple[float, Tensor]:
        """Loss with ridge and its gradient Dᵀ ∇F + ρ α, [C], by a forward and a backward pass."""
        assert self.closure is not None
        self.move(alpha)
        loss, gradients = self.closure.gradient([weight.parameter for weight in self.weights])
        dots = self.buffer.dots(self.weights, gradients)
        numbers = torch.cat([loss.double().view(1), dots.to(loss.device)])
        numbers = self.closure.mean(numbers)
        return self._note(alpha, float(numbers[0])), self.columns.t() @ numbers[1:] + self.ridge * alpha

    def gauss_newton(self, differences: float | None = None) -> tuple[float, Tensor, Tensor]:
        """Loss at α = 0, its gradient [C], and the Gauss-Newton matrix Dᵀ Jᵀ (∂²L) J D [C, C], with ridge.

        Args:
            differences: take the products J d as central differences of this step in α; None for forward mode.
        """
        assert self.closure is not None
        origin = torch.zeros(self.size, dtype=torch.float64)
        directions = torch.eye(self.size, dtype=torch.float64)
        self.move(origin)
        if differences is None:
            found = [self.closure.product(self._tangent(direction)) for direction in directions]
            outputs, products = found[0][0], [product for _, product in found]
        else:
            outputs, products = self.closure.outputs(), []
            for direction in directions:
                ends = []
                for sign in (1.0, -1.0):
                    self.move(sign * differences * direction)
                    ends.append(self.closure.outputs())
                products.append((ends[0] - ends[1]) / (2 * differences))
            self.move(origin)
        loss, slopes, matrix = self.closure.gauss_newton(outputs, products)
        numbers = self.closure.mean(torch.cat([loss, slopes, matrix.flatten()]))
        gradient, curvature = numbers[1 : 1 + self.size], numbers[1 + self.size :].view(self.size, self.size)
        return self._note(origin, float(numbers[0])), gradient, curvature + self.ridge * directions

    def gram(self) -> Tensor:
        """Dᵀ D: float64, [C, C]."""
        return self.columns.t() @ self.buffer.gram(self.weights) @ self.columns

    def _tangent(self, alpha: Tensor) -> dict[str, Tensor]:
        assert self.closure is not None
        names = self.closure.names
        moved = self.buffer.combination(self.weights, self.columns @ alpha)
        return {
            names[weight.parameter]: tangent
            for weight, tangent in zip(self.weights, moved, strict=True)
            if weight.parameter.requires_grad
        }

    def _note(self, alpha: Tensor, loss: float) -> float:
        self.losses[tuple(alpha.tolist())] = loss
        return loss + self.ridge / 2 * float(alpha @ alpha)


def raw_columns(buffer: DisplacementBuffer, layout: Layout, average: bool, residuals: bool) -> Tensor:
    """Rows as they are, for rules that know what each is: history, then average, then residuals, the newest first."""
    slots = buffer.newest_first()
    rows = slots + [layout.average_row] * average + [layout.first_residual + slot for slot in slots] * residuals
    return torch.eye(layout.rows, dtype=torch.float64)[:, rows]


def searched_columns(
    buffer: DisplacementBuffer, layout: Layout, weights: Sequence[Weight], orthonormal: bool
) -> tuple[Tensor, int]:
    """Columns for rules that search by the loss: history, anchors, momentum; and how many are history.

    History is as it is; anchors and momentum are scaled to the length of the newest displacement, and left out while
    they are zero. ``orthonormal`` makes all of them orthogonal and of that length, and drops dependent ones.

    Raises:
        UserError: if rows have become infinite.
    """
    slots = buffer.newest_first()
    extra = [*range(layout.history, layout.momentum_row)] + [layout.momentum_row] * bool(layout.momentum)
    identity = torch.eye(layout.rows, dtype=torch.float64)
    if not extra and not orthonormal:
        return identity[:, slots], len(slots)
    gram = buffer.gram(weights)
    lengths = gram.diagonal().clamp(min=0.0).sqrt()
    if not bool(lengths.isfinite().all()):
        raise UserError("The displacements have become infinite.", "Lower the rate of the base optimizer.")
    unit = float(lengths[slots[0]])
    present = slots + [row for row in extra if lengths[row] > 0]
    scaled = identity[:, present] * torch.where(lengths > 0, unit / lengths, 0.0)[present]
    if not orthonormal:
        scaled[:, : len(slots)] = identity[:, slots]
        return scaled, len(slots)
    shares, turned = torch.linalg.eigh(scaled.t() @ gram @ scaled / unit**2)
    kept = (shares > DEPENDENT * shares.max()).nonzero().flatten().flip(0)
    return scaled @ turned[:, kept] / shares[kept].sqrt(), 0
