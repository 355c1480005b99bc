"""LAMB and its named variants against float64 oracles of their publications, on every path."""

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from optim.trajectories import PATHS, Problem, Trajectory, check, expected, of_optimizer, of_oracle, problem, watch
from oracles import lamb as oracle

from overnight.optim import LAMB

CASES: dict[str, tuple[Callable[..., Any], Any, dict[str, Any]]] = {
    "paper": (oracle.paper, None, {}),
    "uncorrected": (oracle.author, None, {"bias_correction": False}),
    "author": (oracle.author, None, {"variant": "author"}),
    "lambc": (oracle.lambc, None, {"variant": "lambc"}),
    "nvlamb": (oracle.nvlamb, oracle.clip_globally, {"variant": "nvlamb"}),
    "mlperf": (oracle.mlperf, oracle.clip_globally, {"max_grad_norm": 1.0}),
    "lans": (oracle.lans, None, {"variant": "lans"}),
    "deepspeed": (oracle.deepspeed, None, {"variant": "deepspeed"}),
    "optax": (oracle.optax, None, {}),
}
RATES = [0.1] * 12 + [0.01] * 12
LAYERS = [  # shape, scale of the weights, scale of the gradients, excluded
    ((7,), 1.0, 0.1, True),
    ((63, 5), 0.05, 10.0, False),
    ((101, 3, 3), 30.0, 0.01, False),
    ((4, 63), 0.004, 1.0, False),
    ((), 0.5, 0.1, True),
    ((7, 7), 1.0, 1e-4, False),
    ((101,), 1.0, 1e-3, True),
    ((3, 1101), 0.3, 0.1, False),
]


@cache
def given() -> Problem:
    return problem(LAYERS, len(RATES))


@cache
def wanted(name: str, decay: float) -> Trajectory:
    rule, before, _ = CASES[name]
    return of_oracle(rule, before, given(), RATES, decay)


def apart(a: Trajectory, b: Trajectory) -> float:
    return max(
        float(np.linalg.norm(x - y) / np.linalg.norm(y)) for x, y in zip(a[-1], b[-1], strict=True) if np.ndim(x) > 1
    )


def test_the_cases_can_tell_the_variants_apart() -> None:
    for name in ("author", "lambc", "nvlamb", "lans", "deepspeed"):
        assert apart(wanted(name, 0.01), wanted("paper", 0.01)) > 1e-3, name
    assert apart(wanted("paper", 0.0), wanted("paper", 0.01)) > 1e-3


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("path", ["loop", "foreach", "capturable_loop", "capturable_foreach", "fused"])
@pytest.mark.parametrize("name", CASES)
def test_float64(name: str, path: str, decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = watch(monkeypatch)
    found = of_optimizer(LAMB, given(), RATES, decay, torch.float64, **CASES[name][2], **PATHS[path])
    check(found, wanted(name, decay), 1e-10, 1e-15)
    assert ran == ({"loop"} if (name, path) == ("lans", "fused") else expected(path))


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", CASES)
def test_float32(name: str, path: str, decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = watch(monkeypatch)
    found = of_optimizer(LAMB, given(), RATES, decay, torch.float32, **CASES[name][2], **PATHS[path])
    check(found, wanted(name, decay), 1e-5, 2**-24)
    assert ran == ({"loop"} if (name, path) == ("lans", "fused") else expected(path))


LARGE = [((2**21 + 3 * 1024 + 77,), 0.02, 0.1, False), ((1031, 1021), 0.5, 1e-3, False)]
LARGE_RATES = [0.1, 0.1, 0.01]


@cache
def large() -> tuple[Problem, Trajectory]:
    weights = problem(LARGE, len(LARGE_RATES))
    return weights, of_oracle(oracle.paper, None, weights, LARGE_RATES, 0.01)


@pytest.mark.parametrize("path", ["loop", "foreach", "fused"])
def test_tensors_of_several_chunks(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = watch(monkeypatch)
    check(of_optimizer(LAMB, large()[0], LARGE_RATES, 0.01, torch.float32, **PATHS[path]), large()[1], 1e-5, 2**-24)
    assert ran == expected(path)
