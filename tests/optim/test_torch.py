"""Without adaptation LARS is torch.optim.SGD and LAMB is torch.optim.AdamW, on every path."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from optim.trajectories import PATHS, expected, watch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from overnight.optim import LAMB, LARS

SHAPES = [(7,), (63, 5), (), (3, 1101)]


def train(make: Callable[[list[Tensor]], Optimizer], dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)

    def draw(shape: tuple[int, ...]) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    parameters = [torch.nn.Parameter(draw(shape)) for shape in SHAPES]
    optimizer = make(list(parameters))
    for _ in range(20):
        for p in parameters:
            p.grad = draw(tuple(p.shape))
        optimizer.step()
    return [p.detach() for p in parameters]


def assert_same(ours: list[Tensor], theirs: list[Tensor], dtype: torch.dtype) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).norm() <= (1e-6 if dtype == torch.float32 else 1e-14) * b.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lamb_is_adamw(
    decay: float, maximize: bool, path: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = watch(monkeypatch)
    # a large ε tells where it stands
    settings: dict[str, Any] = {
        "lr": 0.01, "betas": (0.8, 0.99), "eps": 0.1, "weight_decay": decay, "maximize": maximize,
    }  # fmt: skip
    ours = train(lambda ps: LAMB(ps, adapt=False, **settings, **PATHS[path]), dtype)
    assert_same(ours, train(lambda ps: AdamW(ps, **settings), dtype), dtype)
    assert ran == expected(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("placement", ["inside", "torch", "scaled"])
@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_lars_is_sgd(
    momentum: float,
    maximize: bool,
    nesterov: bool,
    placement: Any,
    path: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran = watch(monkeypatch)
    settings: dict[str, Any] = {"lr": 0.01, "momentum": momentum, "weight_decay": 0.1, "maximize": maximize}
    ours = train(
        lambda ps: LARS(ps, adapt=False, nesterov=nesterov, momentum_placement=placement, **settings, **PATHS[path]),
        dtype,
    )
    assert_same(ours, train(lambda ps: SGD(ps, nesterov=nesterov and momentum > 0, **settings), dtype), dtype)
    fused = momentum > 0 and (not nesterov or placement == "scaled")
    assert ran == ({"loop"} if path == "fused" and not fused else expected(path))
