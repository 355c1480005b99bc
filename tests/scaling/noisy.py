"""A loss whose gradient has a known mean and covariance everywhere, and a loop around DATE."""

import math
from typing import Any

import torch
from torch import nn

from overnight.scaling import DATE, Hyperparameters

D = 50


class Slope(nn.Module):
    """w · (μ + ξ): the gradient is μ plus noise of variance σ² in each of D directions, wherever w is."""

    def __init__(self, noise_scale: float) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.w = nn.Parameter(100.0 + torch.randn(D, dtype=torch.float64))
        self.sigma = math.sqrt(noise_scale / D)  # |μ|² is 1

    def forward(self, samples: int, draw: torch.Generator) -> torch.Tensor:
        noise = torch.randn(D, generator=draw, dtype=torch.float64) * self.sigma / math.sqrt(samples)
        return (self.w * (D**-0.5 + noise)).sum()


def tuned(**changes: Any) -> Hyperparameters:
    settings = {"lr": 0.01, "global_batch_size": 16, "warmup_samples": 160, "total_samples": 32_000.0}
    return Hyperparameters(**{**settings, **changes})


def make(model: Slope, *, k: int = 8, adam: bool = False, baseline: Hyperparameters | None = None, **more: Any) -> DATE:
    baseline = baseline or tuned()
    kind: Any = torch.optim.Adam if adam else torch.optim.SGD
    settings = {"batch_warmup": 0.0, "measure_every": 1} | more
    if "global_batch_size" in settings.get("fixed", ()):
        del settings["batch_warmup"]
    return DATE(
        kind(model.parameters(), lr=baseline.lr),
        baseline,
        model=model,
        global_batch_size=baseline.global_batch_size * k,
        micro_batch_size=baseline.global_batch_size,
        **settings,
    )


def train(date: DATE, model: Slope, steps: int | None = None, seed: int = 0, spoil: Any = None) -> list[float]:
    """To the end, or for so many steps; returns the rates. ``spoil`` is (step) → what to add to the loss."""
    rates: list[float] = []
    while not date.done and (steps is None or len(rates) < steps):
        draw = torch.Generator().manual_seed(1_000_000 * seed + date.steps)
        rates.append(date.optimizer.param_groups[0]["lr"])
        date.optimizer.zero_grad()
        for _ in range(date.accumulation):
            loss = model(16, draw)
            (loss / date.accumulation).backward()
            date.observe(loss.detach() + (spoil(date.steps) if spoil else 0.0))
        date.optimizer.step()
        date.step()
    return rates
