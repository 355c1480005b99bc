"""What ranks are given to do to train together in the run's own way."""

import os
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from train.toys import toy

from overnight.train.launch import Options, train
from overnight.train.step import Stepper

SAMPLED: dict[str, Any] = {"parallel": "overnight.comm.strategies.sampled", "parallel__hidden": (("model.mix.*", 1),)}
LOCAL: dict[str, Any] = {"parallel": "overnight.comm.strategies.local", "parallel__every": 3}


def train_together(
    folder: Path, settings: dict[str, Any], of_rank: dict[int, dict[str, Any]] | None = None, resume: str = ""
) -> dict[str, Any]:
    """The toy's run.

    Args:
        folder: the run folder.
        settings: of all ranks.
        of_rank: further ones by rank.
        resume: the checkpoint to go on from.

    Returns:
        The summary; ``weights`` at the end, on this rank; ``reductions``: how many all-reduces were started in Python.
    """
    mine = settings | (of_rank or {}).get(int(os.environ.get("RANK", "0")), {})
    kept: dict[str, torch.Tensor] = {}
    close, reduce, calls = Stepper.close, dist.all_reduce, 0

    def closing(stepper: Stepper) -> None:
        kept.update({name: p.detach().clone() for name, p in stepper.task.model.named_parameters()})
        close(stepper)

    def reducing(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        return reduce(*arguments, **options)

    with mock.patch.object(Stepper, "close", closing), mock.patch.object(dist, "all_reduce", reducing):
        ended = train(toy(**mine), folder, Options(quiet=True, resume=bool(resume), checkpoint=resume or "last"))
    return ended | {"weights": kept, "reductions": calls}
