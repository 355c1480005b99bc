"""What defines LAMB and LARS: the length of every adapted layer's update, whatever the gradient."""

from typing import Any

import numpy as np
import pytest
import torch
from optim.trajectories import PATHS, expected, watch
from torch import Tensor

from overnight.optim import LAMB, LARS

NORMS = (1e-3, 4.5, 400.0)
CHECKED = (1, 10, 100, 1000)
SHAPE = (12, 33)


def norm(x: Tensor) -> float:
    return float(np.linalg.norm(x.detach().double().numpy()))


def drawn(generator: torch.Generator, length: float) -> Tensor:
    x = torch.randn(SHAPE, generator=generator)
    return x * (length / norm(x))


def steps(optimizer: torch.optim.Optimizer, parameters: list[Tensor]) -> Any:
    """Make 1000 steps, each from weights of the lengths NORMS; yield before and after those that are checked."""
    generator = torch.Generator().manual_seed(3)
    starts = [drawn(generator, length) for length in NORMS]
    for step in range(1, CHECKED[-1] + 1):
        with torch.no_grad():
            for p, start in zip(parameters, starts, strict=True):
                p.copy_(start)
        for scale, p in zip((10.0, 1e-3, 1.0), parameters, strict=True):
            p.grad = torch.randn(SHAPE, generator=generator).add_(0.3).mul_(scale)
        optimizer.step()
        if step in CHECKED:
            yield from zip(starts, parameters, strict=True)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("variant", "decay"), [("lamb", 0.0), ("author", 0.01), ("nvlamb", 0.01)])
def test_lamb_moves_each_layer_by_lr_times_its_norm(
    variant: str, decay: float, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = watch(monkeypatch)
    parameters = [torch.nn.Parameter(torch.ones(SHAPE)) for _ in NORMS]
    optimizer = LAMB(parameters, lr=0.1, weight_decay=decay, variant=variant, **PATHS[path])
    for before, after in steps(optimizer, parameters):
        assert norm(after - before) == pytest.approx(0.1 * norm(before), rel=1e-5)
    assert ran == expected(path)


@pytest.mark.parametrize("path", [path for path in PATHS if path != "fused"])
def test_lamb_of_row_blocks_moves_each_by_lr_times_its_norm(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = watch(monkeypatch)
    parameters = [torch.nn.Parameter(torch.ones(SHAPE)) for _ in NORMS]
    for before, after in steps(LAMB(parameters, lr=0.1, blocks=4, **PATHS[path]), parameters):
        for a, b in zip(after.chunk(4), before.chunk(4), strict=True):
            assert norm(a - b) == pytest.approx(0.1 * norm(b), rel=1e-5)
    assert ran == expected(path)


@pytest.mark.parametrize("path", PATHS)
def test_phi_has_a_floor_and_a_ceiling(path: str) -> None:
    parameters = [torch.nn.Parameter(torch.ones(SHAPE)) for _ in NORMS]
    optimizer = LAMB(parameters, lr=0.1, norm_bounds=(0.5, 10.0), **PATHS[path])
    for before, after in steps(optimizer, parameters):
        phi = min(max(norm(before), 0.5), 10.0)
        assert norm(after - before) == pytest.approx(0.1 * phi, rel=1e-5, abs=2**-25 * norm(before))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("decay", [0.0, 0.01])
def test_the_newest_part_of_lars_velocity_has_its_length(
    decay: float, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of v, lr · η ‖w‖ / (‖g‖ + λ‖w‖) · ‖g + λw‖ is new, which is lr · η · ‖w‖ without decay."""
    ran = watch(monkeypatch)
    parameters = [torch.nn.Parameter(torch.ones(SHAPE)) for _ in NORMS]
    optimizer = LARS(parameters, lr=10.0, weight_decay=decay, **PATHS[path])
    generator = torch.Generator().manual_seed(4)
    old = [torch.zeros(SHAPE) for _ in NORMS]
    for step in range(1, CHECKED[-1] + 1):
        for n, p in enumerate(parameters):
            with torch.no_grad():
                p.copy_(drawn(generator, NORMS[n]))
            p.grad = drawn(generator, (10.0, 1e-3, 1.0)[n])
        starts = [p.detach().clone() for p in parameters]
        optimizer.step()
        for n, (p, w) in enumerate(zip(parameters, starts, strict=True)):
            velocity = optimizer.state[p]["momentum_buffer"]
            if step in CHECKED:
                g = p.grad
                expected_length = 10.0 * 0.001 * norm(w) / (norm(g) + decay * norm(w)) * norm(g + decay * w)
                assert norm(velocity.double() - 0.9 * old[n].double()) == pytest.approx(expected_length, rel=1e-5)
            old[n] = velocity.clone()
    assert ran == expected(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (LAMB, {"lr": 0.1, "eps": 0.0}),
        (LARS, {"lr": 100.0}),
        (LARS, {"lr": 100.0, "momentum_placement": "torch", "maximize": True}),
        (LARS, {"lr": 100.0, "momentum_placement": "scaled"}),
    ],
    ids=str,
)
def test_a_gradient_times_a_constant_makes_the_same_step(
    kind: Any, options: dict[str, Any], path: str, dtype: torch.dtype
) -> None:
    ends = []
    for scale in (1.0, 1e-6, 1e6, 1e12):
        generator = torch.Generator().manual_seed(5)
        p = torch.nn.Parameter(drawn(generator, 4.5).to(dtype))
        optimizer = kind([p], weight_decay=0.0, **options, **PATHS[path])
        for _ in range(3):
            p.grad = scale * drawn(generator, 1.0).to(dtype)
            optimizer.step()
        ends.append(p.detach())
    for end in ends[1:]:
        assert norm(end - ends[0]) <= (1e-6 if dtype == torch.float32 else 1e-12) * norm(ends[0])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("kind", "options"),
    [(LAMB, {"variant": variant, "weight_decay": 0.01}) for variant in ("lamb", "lambc", "nvlamb", "lans", "deepspeed")]
    + [(LARS, {"variant": variant, "weight_decay": 0.01}) for variant in ("lars", "larc", "optax", "vissl")]
    + [(LAMB, {"adapt": False}), (LARS, {"adapt": False})],
    ids=str,
)
def test_row_blocks_are_as_separate_parameters(kind: Any, options: dict[str, Any], path: str) -> None:
    generator = torch.Generator().manual_seed(6)
    start = torch.randn(SHAPE, generator=generator) * torch.arange(12).view(12, 1)  # the first row is zero
    whole = torch.nn.Parameter(start.clone())
    parts = [torch.nn.Parameter(part.clone()) for part in start.chunk(12)]
    one = kind([whole], lr=0.1, blocks=12, **options, **PATHS[path])
    many = kind(parts, lr=0.1, **options, **PATHS[path])
    for _ in range(3):
        whole.grad = torch.randn(SHAPE, generator=generator) * torch.arange(12, 0, -1).view(12, 1)
        for p, g in zip(parts, whole.grad.chunk(12), strict=True):
            p.grad = g.clone()
        one.step()
        many.step()
    for a, b in zip(whole.detach().chunk(12), parts, strict=True):
        assert norm(a - b) <= 1e-6 * norm(b)
