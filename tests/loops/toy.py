"""A small classifier, its data, and the two optimizers: what every loop here trains."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.optim import LAMB, LARS
from overnight.optim.groups import param_groups
from overnight.schedule import ProgressLR, apply, cosine

STEPS, BATCH = 6, 32
OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "LAMB": lambda model: LAMB(param_groups(model, weight_decay=0.01), lr=0.02),
    "LARS": lambda model: LARS(param_groups(model, weight_decay=1e-4), lr=0.5, trust_coefficient=0.02),
}


def classifier(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), nn.GELU(), nn.Linear(32, 4)).to(dtype)


def batches(dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    """As many as there are steps."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, BATCH, 16, generator=generator).to(dtype)
    return list(zip(x, x[:, :, :4].argmax(2), strict=True))


def schedule(optimizer: torch.optim.Optimizer, **settings: object) -> ProgressLR:
    curve = partial(cosine, warmup_samples=2 * BATCH)
    return apply(optimizer, curve, global_batch_size=BATCH, total_samples=STEPS * BATCH, **settings)


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def plain_loop(name: str, dtype: torch.dtype = torch.float32, steps: int = STEPS) -> list[Tensor]:
    """The weights after a bare loop over whole batches: what every other loop must reach.

    In float64, to a few roundings of 1e-16 a step: sums run in another order, and MKL's depend on where memory lies.
    """
    model = classifier(dtype)
    optimizer = OPTIMIZERS[name](model)
    scheduler = schedule(optimizer)
    for x, y in batches(dtype)[:steps]:
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    return weights(model)
