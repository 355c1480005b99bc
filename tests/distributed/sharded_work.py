"""What ranks are given to do by test_optim_sharded: the same steps on shards and, beside it, on whole tensors."""

import gc
import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard, distribute_tensor

from overnight import optim

SHAPES = [(7, 5), (101, 3), (8, 6), (3, 4), (1, 16), (5,), (20, 2, 3)]
"""Over four ranks: shards of two sizes, and none at all for the last ones."""
CUTS: dict[int, list[tuple[int, ...]]] = {4: [(8, 6), (20, 3), (4, 5), (12,)], 5: [(15, 4), (35, 1), (5, 7), (40,)]}
"""By number of row blocks; five are cut by the ends of the shards."""
STEPS = 3


@dataclass(frozen=True)
class Case:
    """What to compare.

    Attributes:
        optimizer: ``LAMB`` or ``LARS``.
        settings: of all groups.
        shapes: of the parameters.
        placements: None for FSDP2, else how every parameter is placed.
        mesh: shape of the device mesh, where there are placements.
        dtype: of the parameters.
        unadapted: every second parameter goes to a group without ratio and decay.
        frozen: parameters that do not require gradients.
        idle: parameters without gradients.
    """

    optimizer: str
    settings: dict[str, Any] = field(default_factory=dict)
    shapes: Sequence[tuple[int, ...]] = tuple(SHAPES)
    placements: tuple[Placement, ...] | None = None
    mesh: tuple[int, ...] = ()
    dtype: torch.dtype = torch.float32
    unadapted: bool = False
    frozen: tuple[int, ...] = ()
    idle: tuple[int, ...] = ()

    def whole(self) -> list[nn.Parameter]:
        """The parameters as one process has them; one in five rows is zero."""
        draw = torch.Generator().manual_seed(0)
        found = []
        for n, shape in enumerate(self.shapes):
            value = torch.randn(shape, generator=draw).to(self.dtype)
            value[::5] = 0
            found.append(nn.Parameter(value, requires_grad=n not in self.frozen))
        return found

    def make(self, parameters: Sequence[nn.Parameter], **changes: Any) -> torch.optim.Optimizer:
        """The optimizer over these parameters."""
        settings = {"lr": 0.1, "weight_decay": 0.1, **self.settings, **changes}
        groups: list[dict[str, Any]] = [{"params": list(parameters)}]
        if self.unadapted:
            groups = [
                {"params": list(parameters[::2])},
                {"params": list(parameters[1::2]), "adapt": False, "weight_decay": 0.0},
            ]
        kind: Any = getattr(optim, self.optimizer)
        made: torch.optim.Optimizer = kind(groups, **settings)
        return made

    def gradient(self, n: int, step: int) -> Tensor | None:
        """Of parameter n, the whole of it."""
        if n in self.frozen or n in self.idle:
            return None
        draw = torch.Generator().manual_seed(1000 * step + n)
        return (torch.randn(self.shapes[n], generator=draw) * 10.0 ** (n % 3 - 1)).to(self.dtype)

    def sharded(self) -> list[nn.Parameter]:
        """The same parameters as ``whole``, over the ranks."""
        parameters = self.whole()
        if self.placements is None:
            module = nn.Module()
            module.list = nn.ParameterList(parameters)
            fully_shard(module, mesh=mesh_of((dist.get_world_size(),)))
            return list(module.parameters())
        mesh = mesh_of(self.mesh)
        return [nn.Parameter(_distribute(p, mesh, self.placements), p.requires_grad) for p in parameters]


def _distribute(p: Tensor, mesh: DeviceMesh, placements: tuple[Placement, ...]) -> DTensor:
    # a vector has no second dimension to cut
    fitting = [Replicate() if isinstance(x, Shard) and x.dim >= p.dim() else x for x in placements]
    return distribute_tensor(p.detach(), mesh, fitting, src_data_rank=None)


@cache
def mesh_of(shape: tuple[int, ...]) -> DeviceMesh:
    """Of all ranks; making one costs a rendezvous."""
    return init_device_mesh("cpu", shape)


def spread(value: Tensor, like: Tensor) -> DTensor:
    """A whole tensor, the same on all ranks, in the manner of a sharded one; nothing is sent."""
    assert isinstance(like, DTensor)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def part(value: Tensor, like: Tensor) -> Tensor:
    """What this rank has of a whole tensor, in the manner of a sharded one."""
    return spread(value, like).to_local()


def local(x: Tensor) -> Tensor:
    """A copy of what this rank has of a sharded tensor."""
    assert isinstance(x, DTensor)
    return x.detach().to_local().clone()


def in_group(store: Path, work: Callable[..., Any], *arguments: Any) -> Any:
    """What work returns in a process group that gives up after a minute, and that nothing keeps alive afterwards.

    Args:
        store: a new file where the ranks meet: no other program can take it, as it can a port.
        work: a function of an importable module.
        arguments: its arguments.
    """
    importlib.import_module("torch.distributed.nn.functional")  # would hold the group if it were imported later
    rank, ranks = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    meeting = f"file://{store}"
    dist.init_process_group("gloo", meeting, rank=rank, world_size=ranks, timeout=timedelta(seconds=60))
    try:
        result = work(*arguments)
    finally:
        mesh_of.cache_clear()
        gc.collect()
        dist.destroy_process_group()
    return result


def compare(cases: dict[str, Case]) -> dict[str, tuple[float, float]]:
    """How far weights and updates of a sharded optimizer are from those of one that has it all, the largest found."""
    return {name: _compare(case) for name, case in cases.items()}


def _compare(case: Case) -> tuple[float, float]:
    ours, theirs = case.sharded(), case.whole()
    one, other = case.make(ours), case.make(theirs, fused=False, foreach=False)
    weights, updates = [0.0], [0.0]
    for step in range(STEPS):
        before = [(local(p), q.detach().clone()) for p, q in zip(ours, theirs, strict=True)]
        for n, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            q.grad = case.gradient(n, step)
            p.grad = None if q.grad is None else spread(q.grad, p)
        one.step()
        other.step()
        for p, q, (p0, q0) in zip(ours, theirs, before, strict=True):
            update = q.detach() - q0
            if q.grad is None:
                assert torch.equal(local(p), p0)
                continue
            assert update.abs().max() > 0
            weights.append(off(local(p), q.detach(), p))
            updates.append(off(local(p) - p0, update, p))
    return max(weights), max(updates)


def off(ours: Tensor, theirs: Tensor, like: Tensor) -> float:
    """‖difference of this rank's part‖ / ‖theirs‖."""
    difference = ours.double() - part(theirs, like).double()
    return difference.norm().item() / theirs.double().norm().item()
