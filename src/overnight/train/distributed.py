"""Ranks: what torchrun started, and the few collectives the trainer needs beside DDP's own."""

import importlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from overnight.comm.checks import check_backend, lost, meeting_within
from overnight.errors import ElsewhereError, UserError
from overnight.train.rendezvous import meet

T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)
"""How long ranks wait for each other, as at an evaluation, before they give up."""
MEETING = timedelta(minutes=5)
"""How long they wait for each other at the start."""


@dataclass
class Waited:
    """Seconds in reductions over the ranks that the trainer makes itself."""

    seconds: float = 0.0


@dataclass(frozen=True)
class World:
    """This process among the others.

    Attributes:
        rank, world_size: of all processes; 0 and 1 without torchrun.
        device: where this rank computes.
        waited: for the others.
    """

    rank: int
    world_size: int
    device: torch.device
    waited: Waited = field(default_factory=Waited, compare=False)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def all_reduce(self, value: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
        """Reduce in place over the ranks; nothing to do for one."""
        if self.world_size > 1:
            began = time.perf_counter()
            dist.all_reduce(value, op)
            self.waited.seconds += time.perf_counter() - began
        return value

    def sum(self, value: int) -> int:
        """Of a whole number over the ranks."""
        if self.world_size == 1:
            return value
        return int(self.all_reduce(torch.tensor(value, device=self.device)).item())

    def together(self, work: Callable[[], T]) -> T:
        """Do something on every rank; if one fails, all do, so that none waits for a rank that is gone.

        ``work`` itself must not communicate.

        Raises:
            UserError: the first failing rank's; on the other ranks as an ``ElsewhereError``.
        """
        failure: UserError | None = None
        try:
            result = work()
        except UserError as error:
            failure = error
        if self.world_size > 1:
            mine = torch.tensor(self.world_size if failure is None else self.rank, device=self.device)
            try:
                first = int(self.all_reduce(mine, dist.ReduceOp.MIN).item())
            except RuntimeError as error:
                if failure is not None and lost(error):
                    raise failure from error
                raise
            if first < self.world_size:
                box = [(failure.problem, failure.remedy) if failure is not None else None]
                dist.broadcast_object_list(box, src=first, device=self.device)
                if self.rank != first and box[0] is not None:
                    raise ElsewhereError(*box[0]) from failure
        if failure is not None:
            raise failure
        return result

    def alike(self, work: Callable[[], T]) -> T:
        """Do something that communicates, and that fails on every rank if on any; one of them says so.

        Raises:
            UserError: rank 0's; on the other ranks as an ``ElsewhereError``.
        """
        failure: UserError | None = None
        try:
            result = work()
        except UserError as error:
            failure = error

        def tell() -> None:
            if failure is not None:
                raise failure

        self.together(tell)
        return result

    def on_main(self, work: Callable[[], T]) -> T | None:
        """Do something on rank 0 only (None elsewhere); if it fails there, it fails on every rank."""
        return self.together(lambda: work() if self.is_main else None)

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's value, on every rank (small objects of our own making only)."""
        if self.world_size == 1:
            return value
        box = [value if self.is_main else None]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def broadcast_tensors(self, tensors: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Rank 0's tensors, on every rank, on the CPU: so only rank 0 needs the run folder."""
        if self.world_size == 1:
            return dict(tensors or {})
        header = {name: (tuple(t.shape), t.dtype) for name, t in (tensors or {}).items()}
        header = self.broadcast_object(header)
        received = {}
        for name, (shape, dtype) in header.items():
            source = tensors[name].contiguous() if tensors is not None else torch.empty(shape, dtype=dtype)
            buffer = source.to(self.device)
            dist.broadcast(buffer, src=0)
            received[name] = buffer.cpu()
        return received

    def gather_lanes(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Every rank's lanes, joined in rank order, on rank 0 (empty elsewhere)."""
        if self.world_size == 1:
            return {name: tensor.cpu() for name, tensor in tensors.items()}
        joined = {}
        for name, tensor in tensors.items():
            source = tensor.contiguous()
            parts = [torch.empty_like(source) for _ in range(self.world_size)]
            dist.all_gather(parts, source)
            if self.is_main:
                joined[name] = torch.cat(parts).cpu()
        return joined


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def restarted_by_torchrun() -> bool:
    """Whether torchrun started this process again after a failure or a change of membership."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _ignore_sigterm() -> None:
    """Let this rank say how it ended: as soon as one has, torchrun sends SIGTERM to those that are slower.

    What is still there after 30 seconds it kills.
    """
    if under_torchrun():
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, signal.SIG_IGN)


@contextmanager
def start_world(device: str = "auto", *, group: bool = False) -> Iterator[World]:
    """Join the other ranks if torchrun started us (NCCL on CUDA, gloo on CPU), and leave them at the end.

    Args:
        device: ``auto`` (CUDA where there is one, else the CPU), ``cpu`` or ``cuda``.
        group: a process without others has a process group of its own.

    Raises:
        UserError: for a device that this machine does not have or this torch cannot exchange from; if the ranks do not
            meet in time, with the address.
    """
    chosen = choose_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        if group:
            check_backend(_backend(chosen))
            _import_before_the_group()
            alone = dist.HashStore()  # type: ignore[attr-defined]
            dist.init_process_group(_backend(chosen), store=alone, rank=0, world_size=1, timeout=TIMEOUT)
        try:
            yield World(0, 1, chosen)
        finally:
            if group:
                dist.destroy_process_group()
        return
    check_backend(_backend(chosen))
    _import_before_the_group()
    store, rank, world_size = meet(MEETING)
    with meeting_within(MEETING.total_seconds()):
        dist.init_process_group(_backend(chosen), store=store, rank=rank, world_size=world_size, timeout=MEETING)
    store.set_timeout(TIMEOUT)
    dist.distributed_c10d._set_pg_timeout(TIMEOUT)
    try:
        yield World(rank, world_size, chosen)
        _ignore_sigterm()
    except UserError:
        _ignore_sigterm()
        raise
    finally:
        dist.destroy_process_group()


def _backend(device: torch.device) -> str:
    return "nccl" if device.type == "cuda" else "gloo"


def _import_before_the_group() -> None:
    """Import what would keep the process group alive if it were imported later.

    The functions of ``torch.distributed.nn`` have ``group.WORLD`` as their default, which is bound at the import, and
    DDP's constructor imports them. The group then outlives ``destroy_process_group``, and its threads meet the end of
    the interpreter: with torch 2.13 a rank that had finished now and then died by SIGABRT.
    """
    importlib.import_module("torch.distributed.nn.functional")


def choose_device(wanted: str, local_rank: int) -> torch.device:
    """The device of a process: ``auto``, ``cpu`` or ``cuda``.

    Raises:
        UserError: for one that this machine does not have.
    """
    if wanted not in ("auto", "cpu", "cuda"):
        raise UserError(f"{wanted!r} is not a device to train on.", "Choose auto, cpu or cuda.")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda was asked for, but torch sees no CUDA device.", "Use --device cpu.")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"Rank {local_rank} of this host has no GPU: there are {torch.cuda.device_count()}.",
            "Start at most one process a GPU (torchrun --nproc-per-node).",
        )
    chosen = torch.device(f"cuda:{local_rank}")
    torch.cuda.set_device(chosen)
    return chosen
