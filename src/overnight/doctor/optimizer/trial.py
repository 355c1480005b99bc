"""Steps of which each is seen alone: weights are put back before every one, so that Δw starts where it is wanted."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from overnight.doctor.optimizer.subject import Family, Subject

SHAPE = (64, 64)  # 4096 elements, from which on 8-bit optimizers quantise
RATE: dict[Family, float] = {"lamb": 0.1, "lars": 100.0}
"""Steps of a tenth of the weight: far above the rounding of float32 weights, which would hide errors of Δw."""
SLIGHT_DECAY = 1e-9
"""Too small to matter; some codes adapt only where there is weight decay, which has a check of its own."""


class Trial:
    """An optimizer and its parameters.

    Args:
        subject: what to build.
        weights: initial values.
        weight_decay: λ.
        lr: rate; None for ``RATE``.
        settings: more arguments of the constructor.
    """

    def __init__(
        self,
        subject: Subject,
        weights: Sequence[Tensor],
        weight_decay: float = 0.0,
        lr: float | None = None,
        **settings: Any,
    ) -> None:
        self.start = weights
        self.lr = RATE[subject.family] if lr is None else lr
        self.parameters = [torch.nn.Parameter(w.clone()) for w in weights]
        self.optimizer = subject.build(self.parameters, self.lr, weight_decay, **settings)

    def step(self, gradients: Sequence[Tensor]) -> None:
        """Go on from where the weights are."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = gradient.to(parameter.dtype, copy=True)
        self.optimizer.step()

    def update(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        """Δw of one step from the initial weights; float64."""
        with torch.no_grad():
            for parameter, weight in zip(self.parameters, self.start, strict=True):
                parameter.copy_(weight)
        self.step(gradients)
        return [p.detach().double() - w.double() for p, w in zip(self.parameters, self.start, strict=True)]

    def set_rate(self, lr: float) -> None:
        """As a schedule does."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr


def generator(seed: int = 0) -> torch.Generator:
    """Draws of the checks' own."""
    return torch.Generator().manual_seed(seed)


def of_norm(norm: float, draws: torch.Generator, shape: Sequence[int] = SHAPE) -> Tensor:
    """A normal tensor scaled to this norm."""
    x = torch.randn(shape, generator=draws, dtype=torch.float64)
    found: Tensor = x * (norm / x.norm())
    return found.float()


def clear_of_zero(draws: torch.Generator, shape: Sequence[int] = SHAPE) -> Tensor:
    """Elements between ±100 and ±200, against which any ε is nothing."""
    sign = torch.randint(0, 2, tuple(shape), generator=draws) * 2.0 - 1.0
    size: Tensor = 100 + 100 * torch.rand(tuple(shape), generator=draws)
    return size * sign


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest ‖found - expected‖ / ‖expected‖ of a tensor; NaN if anything is."""
    errors = [((a - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True)]
    return math.nan if any(map(math.isnan, errors)) else max(errors)
