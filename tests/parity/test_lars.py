"""LARS and its named variants against float64 oracles of their publications, on every path."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from optim.trajectories import PATHS, Problem, Trajectory, check, expected, of_optimizer, of_oracle, problem, watch
from oracles import lars as oracle

from overnight.optim import LARS

CASES: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "paper": (oracle.paper, {}),
    "paper_nesterov": (oracle.paper_nesterov, {"nesterov": True}),
    "torch": (oracle.torch_placement, {"momentum_placement": "torch"}),
    "torch_nesterov": (oracle.torch_nesterov, {"momentum_placement": "torch", "nesterov": True}),
    "scaled": (oracle.scaled_placement, {"momentum_placement": "scaled"}),
    "scaled_nesterov": (oracle.scaled_nesterov, {"momentum_placement": "scaled", "nesterov": True}),
    "larc": (oracle.larc, {"variant": "larc"}),
    "larc_unclipped": (oracle.larc_unclipped, {"variant": "larc", "clip": False}),
    "optax": (oracle.optax, {"variant": "optax"}),
    "vissl": (oracle.vissl, {"variant": "vissl"}),
}
UNFUSED = {"paper_nesterov", "torch_nesterov", "optax", "vissl"}
RATES = [5.0] * 12 + [0.5] * 12
LAYERS = [  # shape, scale of the weights, scale of the gradients, excluded; the third has ρ > lr, the others less
    ((7,), 1.0, 1e-3, True),
    ((63, 5), 0.05, 1.0, False),
    ((101, 3, 3), 1.0, 1e-3, False),
    ((4, 63), 0.004, 0.1, False),
    ((), 0.5, 1e-3, True),
    ((3, 1101), 0.3, 0.1, False),
    ((7, 7), 0.0, 1e-3, False),  # zero weights: ρ = 1 at the first step
]


@cache
def given() -> Problem:
    return problem(LAYERS, len(RATES))


@cache
def wanted(name: str, decay: float) -> Trajectory:
    return of_oracle(CASES[name][0], None, given(), RATES, decay)


def options(name: str) -> dict[str, Any]:
    return {"trust_coefficient": oracle.ETA, "momentum": oracle.MOMENTUM, **CASES[name][1]}


def ran_as(name: str, path: str) -> set[str]:
    """Torch's SGD kernel cannot make every variant."""
    return {"loop"} if path == "fused" and name in UNFUSED else expected(path)


def test_the_cases_can_tell_the_variants_apart() -> None:
    ends = {name: wanted(name, 0.01)[-1][5] for name in CASES}
    for name, end in ends.items():
        for other, end_of_other in ends.items():
            if {name, other} not in ({"torch", "larc_unclipped"}, {name}):
                assert np.linalg.norm(end - end_of_other) > 1e-4 * np.linalg.norm(end), (name, other)


def test_after_a_drop_of_the_rate_only_the_papers_placement_carries_the_old_one() -> None:
    def kept(name: str) -> float:
        before, drop, after = (trajectory[5] for trajectory in wanted(name, 0.0)[11:14])
        return float(np.linalg.norm(after - drop) / np.linalg.norm(drop - before))

    assert kept("paper") > 0.8
    assert max(kept("torch"), kept("scaled"), kept("vissl")) < 0.2


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", CASES)
def test_float64(name: str, path: str, decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = watch(monkeypatch)
    found = of_optimizer(LARS, given(), RATES, decay, torch.float64, **options(name), **PATHS[path])
    check(found, wanted(name, decay), 1e-10, 1e-15)
    assert ran == ran_as(name, path)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", CASES)
def test_float32(name: str, path: str, decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = watch(monkeypatch)
    found = of_optimizer(LARS, given(), RATES, decay, torch.float32, **options(name), **PATHS[path])
    check(found, wanted(name, decay), 1e-5, 2**-24)
    assert ran == ran_as(name, path)


LARGE = [((2**21 + 3 * 1024 + 77,), 0.02, 0.1, False), ((1031, 1021), 0.5, 1e-3, False)]


@cache
def large() -> tuple[Problem, Trajectory]:
    weights = problem(LARGE, 3)
    return weights, of_oracle(oracle.paper, None, weights, [5.0, 5.0, 0.5], 0.01)


@pytest.mark.parametrize("path", ["loop", "foreach", "fused"])
def test_tensors_of_several_chunks(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = watch(monkeypatch)
    weights, trajectory = large()
    found = of_optimizer(LARS, weights, [5.0, 5.0, 0.5], 0.01, torch.float32, **options("paper"), **PATHS[path])
    check(found, trajectory, 1e-5, 2**-24)
    assert ran == expected(path)
