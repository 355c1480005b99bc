"""A program that makes steps by the Triton kernels under Triton's interpreter, on the CPU, and by another path.

python interpreted.py                  beside foreach
python interpreted.py STORE            on one of several ranks that meet in that file, beside one process
"""

import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # read where the kernels are defined

import torch
from distributed.sharded_work import Case, compare, in_group
from torch import Tensor
from torch.distributed.tensor import Shard

from overnight.optim import LAMB, LARS, cuda_plan, fused_cuda

SHAPES = [(7,), (63, 5), (101, 203), (16, 24), (1,), (3, 4, 5)]
STEPS = 2


def cases() -> Iterator[tuple[str, type[torch.optim.Optimizer], dict[str, Any]]]:
    """Name, optimizer and settings."""
    for variant in ("lamb", "author", "lambc", "nvlamb", "deepspeed"):
        yield f"LAMB {variant}", LAMB, {"variant": variant}
    for name, settings in {
        "unadapted": {"adapt": False},
        "bounds": {"norm_bounds": (0.5, 3.0), "ratio_bounds": (0.1, 2.0)},
        "maximize": {"maximize": True, "weight_decay": 0.0},
        "capturable": {"capturable": True, "lr": torch.tensor(0.1)},
    }.items():
        yield f"LAMB {name}", LAMB, settings
    for placement in ("inside", "torch", "scaled"):
        yield f"LARS {placement}", LARS, {"momentum_placement": placement}
    for placement in ("inside", "scaled"):
        yield f"LARS {placement} nesterov", LARS, {"momentum_placement": placement, "nesterov": True}
    for variant in ("larc", "optax", "vissl"):
        yield f"LARS {variant}", LARS, {"variant": variant, "maximize": variant == "optax"}
    yield "LARS unadapted", LARS, {"adapt": False, "lr": torch.tensor(0.5)}
    yield "LARS no momentum", LARS, {"momentum": 0.0}


def updates(kind: Any, settings: dict[str, Any], dtype: torch.dtype = torch.float32) -> list[list[Tensor]]:
    """Δw of every parameter, or of its master, at every step; some weights are zero, and once a gradient is missing."""
    torch.manual_seed(0)
    values = [torch.randn(shape) / 4 for shape in SHAPES]
    values[2][:50] = 0
    values[3].zero_()
    parameters = [torch.nn.Parameter(value.to(dtype)) for value in values]
    own = {"lr": 0.5, "trust_coefficient": 1.0} if kind is LARS else {"lr": 0.1}
    settings = {"weight_decay": 0.1, **own, **settings}
    optimizer = kind(parameters, **settings)

    def weights() -> list[Tensor]:
        return [optimizer.state[p].get("master", p).detach().double() for p in parameters]

    found = []
    for step in range(STEPS):
        before = weights()
        for n, p in enumerate(parameters):
            p.grad = torch.randn(p.shape).to(dtype) * 10.0 ** (n % 3 - 1)
        if step == 1:
            parameters[-1].grad = None
        optimizer.step()
        found.append([new - old for new, old in zip(weights(), before, strict=True)])
    return found


def off(kind: Any, settings: dict[str, Any], dtype: torch.dtype = torch.float32) -> float:
    """The largest ‖difference‖ / ‖Δw‖ between the kernels and foreach."""
    calls = []
    passes, fused_cuda._passes = fused_cuda._passes, lambda *how, **more: calls.append(passes(*how, **more))
    ours = updates(kind, {**settings, "fused": True}, dtype)
    fused_cuda._passes = passes
    assert calls, "the kernels were not taken"
    theirs = updates(kind, {**settings, "fused": False, "foreach": True}, dtype)
    worst = 0.0
    for mine, its in zip(itertools.chain(*ours), itertools.chain(*theirs), strict=True):
        worst = max(worst, (mine - its).norm().item() / (its.norm().item() or 1.0))
    return worst


def beside_foreach() -> dict[str, float]:
    """``off`` by case."""
    found = {name: off(kind, settings) for name, kind, settings in cases()}
    for name, kind in (("LAMB", LAMB), ("LARS", LARS)):
        found[f"{name} bfloat16 with masters"] = off(kind, {"master_weights": True}, torch.bfloat16)
        # the interpreter truncates to bfloat16, where a device rounds
        found[f"{name} float16"] = off(kind, {}, torch.float16)
        cuda_plan.SHARE_OF_L2 = 1e-4
        found[f"{name} small cache"] = off(kind, {})
        cuda_plan.SHARE_OF_L2 = 0.6
        cuda_plan.MOST = fused_cuda.MOST = 1
        found[f"{name} long chunks"] = off(kind, {})
        cuda_plan.MOST = fused_cuda.MOST = 1024
    return found


def on_shards(store: Path) -> dict[str, float]:
    """How far this rank's part is from one process, by case."""
    sharded = {}
    for name, settings in {"LAMB": {"variant": "nvlamb"}, "LARS": {"lr": 2.0, "trust_coefficient": 0.1}}.items():
        fused: dict[str, Any] = {**settings, "fused": True}
        sharded[name] = Case(name, fused)
        sharded[f"{name} unadapted"] = Case(name, fused, unadapted=True)
        sharded[f"{name} columns"] = Case(name, fused, placements=(Shard(1),), mesh=(2,))
    return {name: max(found) for name, found in in_group(store, compare, sharded).items()}


if __name__ == "__main__":
    fused_cuda.DEVICES.add("cpu")
    json.dump(on_shards(Path(sys.argv[1])) if sys.argv[1:] else beside_foreach(), sys.stdout)
