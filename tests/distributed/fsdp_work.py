"""What ranks are given to do by test_fsdp: small runs of the recipes, and mistakes."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from overnight.comm.local_steps import LocalSteps
from overnight.comm.sampled import sampled_parallel
from overnight.comm.strategies import ddp, fsdp, row_plan
from overnight.errors import UserError
from overnight.optim.trust_ratio import local
from overnight.recipes.bert import bert
from overnight.recipes.resnet import resnet
from overnight.train.build import build
from overnight.train.distributed import start_world
from overnight.train.launch import Options, train
from overnight.train.parallel import maker
from overnight.train.run import Run
from overnight.train.step import Stepper

STEPS = 6


def run_of(kind: str, data: Path, parallel: str | None) -> Run:
    """Six updates of 16 samples in micro-batches of 4, clipped (BERT) or with an average of the weights (ResNet)."""
    parallel, _, rest = (parallel or "").partition(" ")
    few: dict[str, Any] = {"batch_size": 16, "micro_batch_size": 4, "steps": STEPS, "evaluations": 1}
    if kind == "bert":
        run = bert(data, length=32, dropout=0.0, warmup_steps=2, parallel=parallel or None, max_norm=0.5, **few)
    else:
        run = resnet(
            data,
            optimizer="lars",
            norm="ghost:2",
            warmup_epochs=0.1,
            lr=2.0,
            ema_samples=40,
            parallel=parallel or None,
            **few,
        ).with_setting("model.width=5")
    if rest:
        run = run.with_setting(f"parallel.dtype={rest}")
    return replace(run, precision="fp32", threads=1, checkpoint_steps=2, keep_last=9, log_every=1)


def trained(kind: str, data: Path, out: Path, parallel: str | None, checkpoint: str | None = None) -> dict[str, Any]:
    """The run, or what comes after one of its checkpoints."""
    options = Options(quiet=True, device="cpu", resume=checkpoint is not None, checkpoint=checkpoint or "last")
    return train(run_of(kind, data, parallel), out, options)


def reductions(data: Path) -> dict[str, Any]:
    """Collectives of one update of two micro-batches, by kind; and its module's class and parameters."""
    found: Counter[str] = Counter()
    with start_world("cpu") as world:
        run = run_of("resnet", data, "fsdp")
        parts = build(run, world)
        make = maker(run, parts.data)
        stepper = Stepper(parts.task, parts.optimizer, world, parts.precision, None, make)
        batches = [parts.data.at(0, first, count) for first, count in parts.plan.lanes(world.rank)]
        stepper(batches, {})
        with _Collectives(found):
            stepper(batches, {})
        parameters = [p for group in parts.optimizer.param_groups for p in group["params"]]
        here = sum(local(p).numel() for p in parameters)
        moments = sum(local(state["momentum_buffer"]).numel() for state in parts.optimizer.state.values())
        stepper.close()
    return {"calls": dict(found), "batches": len(batches), "here": here, "moments": moments,
            "all": sum(p.numel() for p in parameters)}  # fmt: skip


class _Collectives(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            self.found[func.__name__.partition(".")[0]] += 1
        return func(*args, **(kwargs or {}))


def refusals() -> dict[str, str]:
    """What is said to each mistake, on this rank."""
    said = {}
    with start_world("cpu"):
        for name, mistake in MISTAKES.items():
            try:
                mistake()
            except UserError as error:
                said[name] = str(error)
    return said


def _embedding() -> nn.Module:
    return nn.Sequential(nn.Embedding(8, 4, sparse=True), nn.Linear(4, 2))


def _stepped() -> None:
    module = nn.Linear(4, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    fsdp(module, optimizer=optimizer)


def _other_ranks() -> None:
    fsdp(nn.Linear(4, 2 + dist.get_rank()))


def _after(again: Callable[[nn.Module], Any]) -> Callable[[], Any]:
    def made() -> Any:
        module = nn.Linear(4, 2)
        fsdp(module)
        return again(module)

    return made


MISTAKES: dict[str, Callable[[], Any]] = {
    "sparse": lambda: fsdp(_embedding()),
    "batch norm": lambda: fsdp(nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2)), param_dtype="bf16"),
    "dtype": lambda: fsdp(nn.Linear(4, 2), dtype="fp8"),  # type: ignore[arg-type]
    "layers": lambda: fsdp(nn.Sequential(nn.Linear(4, 2)), layers=("1",)),
    "stepped": _stepped,
    "another model's": lambda: fsdp(nn.Linear(4, 2), optimizer=torch.optim.SGD(nn.Linear(4, 2).parameters())),
    "nothing": lambda: fsdp(nn.ReLU()),
    "ranks differ": _other_ranks,
    "twice": _after(fsdp),
    "then ddp": _after(ddp),
    "then sampled": _after(lambda module: sampled_parallel(module, row_plan(["weight"], 0.5, 0.0, False, [], [], 0.5))),
    "then local": _after(lambda module: LocalSteps(module, every=2)),
}
