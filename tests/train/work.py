"""What ranks are given to do: functions of an importable module."""

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from train.toys import toy

from overnight.train import distributed
from overnight.train.build import build
from overnight.train.distributed import World, start_world
from overnight.train.launch import Options, train
from overnight.train.rendezvous import meet
from overnight.train.step import Stepper


def train_toy(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The toy's run."""
    return train(toy(**settings), folder, Options(quiet=True))


def count_reductions(steps: int) -> list[int]:
    """How often DDP reduced a bucket after each of some steps of four micro-batches a rank."""
    with start_world("cpu") as world:
        return _count_reductions(world, steps)


def add_up() -> tuple[float, bool]:
    """The sum of all ranks' numbers, counted from 1, and whether the store knew of another attempt."""
    timeout = timedelta(seconds=float(os.environ.get("OVERNIGHT_TEST_TIMEOUT", "60")))
    store, rank, world_size = meet(timeout)
    known = store.check([f"rank {rank} was here"])
    store.set(f"rank {rank} was here", "")
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size, timeout=timeout)
    number = torch.tensor(rank + 1.0)
    dist.all_reduce(number)
    dist.destroy_process_group()
    return number.item(), known


def late(meeting_seconds: float, seconds: float) -> int:
    """What the ranks add up to though rank 1 comes later than the ranks would wait for each other to meet."""
    with mock.patch.object(distributed, "MEETING", timedelta(seconds=meeting_seconds)), start_world("cpu") as world:
        time.sleep(world.rank * seconds)
        return world.sum(1)


def _count_reductions(world: World, steps: int) -> list[int]:
    run = toy(micro_batch_size=1)
    parts = build(run, world)
    stepper = Stepper(parts.task, parts.optimizer, world, parts.precision, None)
    calls = 0

    def hook(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        nonlocal calls
        calls += 1
        return allreduce_hook(dist.group.WORLD, bucket)

    stepper.wrapped.register_comm_hook(None, hook)  # type: ignore[operator]
    carry, counted = parts.task.initial_carry(4), []
    for step in range(steps):
        batches = [parts.data.at(step, first, count) for first, count in parts.plan.lanes(world.rank)]
        assert len(batches) == 4
        carry = stepper(batches, carry).carry
        counted.append(calls)
    stepper.close()
    return counted
