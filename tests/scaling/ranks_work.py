"""What each of two ranks is given to do by test_noise_ranks."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from overnight.errors import UserError
from overnight.scaling.noise_reading import NoiseReading
from overnight.scaling.noise_scale import NoiseScale

STEPS, SAMPLES = 13, 32


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)).double()


def parts(step: int) -> list[torch.Tensor]:
    """Four micro-batches, the same however they are spread over ranks."""
    x = torch.randn(SAMPLES, 6, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return list(x.split(SAMPLES // 4))


def train(net: nn.Module, noise: NoiseScale, optimizer: torch.optim.Optimizer, steps: range, rank: int, ranks: int):
    for step in steps:
        optimizer.zero_grad()
        own = parts(step)[rank * 4 // ranks : (rank + 1) * 4 // ranks]
        for index, part in enumerate(own):
            if isinstance(net, DistributedDataParallel):
                net.require_backward_grad_sync = index == len(own) - 1  # as no_sync does
            ((net(part) - part.sum(1, keepdim=True)).square().mean() / len(own)).backward()
        noise.observe(SAMPLES)
        optimizer.step()


def readings(noise: NoiseScale) -> Iterator[NoiseReading]:
    for preconditioned in (False, True):
        yield noise.read(preconditioned=preconditioned)


def measured() -> dict[str, Any]:
    """Readings over DDP, the window as a checkpoint has it, and that one micro-batch on each of two ranks is enough."""
    dist.init_process_group("gloo")
    try:
        rank = dist.get_rank()
        plain = model()
        net = DistributedDataParallel(plain)
        optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
        noise = NoiseScale(plain.named_parameters(), optimizer=optimizer, block_steps=2, blocks=4)
        train(net, noise, optimizer, range(STEPS), rank, 2)
        found = {"readings": list(readings(noise)), "state": noise.state_dict()}
        net.zero_grad()
        part = parts(0)[rank]
        net(part).mean().backward()
        try:
            noise.observe(SAMPLES // 2)
        except UserError as error:
            found["error"] = str(error)
        return found
    finally:
        dist.destroy_process_group()
