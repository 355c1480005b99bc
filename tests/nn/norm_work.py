"""What ranks are given to do by test_ghost_norm."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from oracles.pictures import write_cifar
from torch import nn

from overnight.nn.ghost_norm import CrossRankBatchNorm2d
from overnight.recipes.resnet import resnet
from overnight.train.distributed import start_world
from overnight.train.launch import Options, train


def given(images: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(images, 7, 3, 5) * 3 + 1, torch.randn(images, 7, 3, 5)


def passed(norm: nn.Module, x: torch.Tensor, upstream: torch.Tensor) -> list[torch.Tensor]:
    """Output, gradients of input and parameters."""
    x = x.clone().requires_grad_()
    y = norm(x)
    y.backward(upstream)
    gradients = [x.grad, *(parameter.grad for parameter in norm.parameters())]
    assert all(gradient is not None for gradient in gradients)
    return [y.detach(), *gradients]  # type: ignore[list-item]


def seeded(norm: Any) -> Any:
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(-1, 2, 7))
        norm.bias.copy_(torch.linspace(1, -1, 7))
    return norm


def cross_rank_norm() -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """What ``passed`` gives on this rank's images, and the norm's state; one rank has a process group too."""
    with start_world("cpu") as world:
        share = {1: slice(12), 2: (slice(7), slice(7, 12))[world.rank]}[world.world_size]
        x, upstream = given()
        norm = seeded(CrossRankBatchNorm2d(7))
        found = passed(norm, x[share], upstream[share])
        norm.eval()(x[:1])  # asks nobody
        return found, norm.state_dict()


def train_resnet(folder: Path, norm: str) -> None:
    """Three steps of 20 images of the recipe, into ``folder / norm``."""
    cifar = folder / f"cifar-{norm}"
    if not cifar.exists():
        write_cifar(cifar)
    run = resnet(cifar, batch_size=20, steps=3, warmup_epochs=0.0, lr=0.05, norm=norm, precision="fp32", evaluations=0)
    run = replace(run.with_setting("model.width=4"), threads=1)
    train(run, folder / norm, Options(device="cpu", quiet=True))
