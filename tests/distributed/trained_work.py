"""What ranks are given to do by test_optim_sharded: training of a small model through its own backward pass."""

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from distributed.sharded_work import mesh_of
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from overnight import optim

STEPS = 4
BATCH = 8
Weights = dict[str, Tensor]
Step = Callable[[int], None]


def model(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Three layers, the first of them frozen, with rows that 4 ranks cannot share evenly."""
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 101), nn.Tanh(), nn.Linear(101, 3)).to(dtype)
    for p in made[0].parameters():
        p.requires_grad_(False)
    return made


def groups(module: nn.Module, frozen: bool) -> list[dict[str, Any]]:
    """Matrices, with the frozen parameters if wanted, and vectors, which are not adapted."""
    parameters = list(module.parameters())
    matrices = [p for p in parameters if (p.dim() > 1 and p.requires_grad) or (frozen and not p.requires_grad)]
    vectors = [p for p in parameters if p.dim() == 1 and p.requires_grad]
    return [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "adapt": False}]


def optimizer(name: str, module: nn.Module, **settings: Any) -> torch.optim.Optimizer:
    """``LAMB`` or ``LARS``."""
    kind: Any = getattr(optim, name)
    made: torch.optim.Optimizer = kind(groups(module, frozen=True), **{"lr": 0.1, "weight_decay": 0.0, **settings})
    return made


def zero_optimizer(name: str, module: nn.Module, **settings: Any) -> Any:
    """The same, each rank with the state of its share of the parameters."""
    from torch.distributed.optim import ZeroRedundancyOptimizer  # the import warns of torch.jit

    kind: Any = getattr(optim, name)
    settings = {"lr": 0.1, "weight_decay": 0.0, **settings}
    return ZeroRedundancyOptimizer(groups(module, frozen=False), optimizer_class=kind, **settings)


def batch(step: int) -> tuple[Tensor, Tensor]:
    """All ranks' samples."""
    draw = torch.Generator().manual_seed(step)
    return tuple(torch.randn(BATCH, n, generator=draw, dtype=torch.float64) for n in (6, 3))  # type: ignore[return-value]


def loss(module: nn.Module, step: int, rows: slice = slice(None)) -> Tensor:
    x, y = batch(step)
    return (module(x[rows]) - y[rows]).square().mean()


def mine(parts: int = 1, part: int = 0) -> slice:
    """This rank's samples, or one of the parts of them."""
    size = BATCH // dist.get_world_size() // parts
    start = (dist.get_rank() * parts + part) * size
    return slice(start, start + size)


def weights(module: nn.Module) -> Weights:
    """All of them, on every rank."""
    found = {}
    for name, p in module.named_parameters():
        whole = p.full_tensor() if isinstance(p, DTensor) else p
        found[name.removeprefix("module.")] = whole.detach().clone()
    return found


def alone(name: str, **settings: Any) -> Weights:
    """What one process gets from the same batches."""
    module = model()
    made = optimizer(name, module, **settings)
    for step in range(STEPS):
        made.zero_grad()
        loss(module, step).backward()
        made.step()
    return weights(module)


def shard(module: nn.Sequential) -> nn.Sequential:
    """FSDP2, layer by layer as one does."""
    mesh = mesh_of((dist.get_world_size(),))
    for layer in module:
        if list(layer.parameters()):
            fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
    return module


def train(module: nn.Module, made: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        made.zero_grad()
        loss(module, step, mine()).backward()
        made.step()


def fsdp(name: str, settings: dict[str, Any]) -> Weights:
    module = shard(model())
    train(module, optimizer(name, module, **settings), range(STEPS))
    return weights(module)


def resumed(name: str, settings: dict[str, Any]) -> dict[str, tuple[Weights, Weights]]:
    """Weights without a break, and with one after two steps, by the kind of state dict."""
    kinds = {
        "sharded": StateDictOptions(),
        "whole": StateDictOptions(full_state_dict=True),
        "offloaded": StateDictOptions(full_state_dict=True, cpu_offload=True, broadcast_from_rank0=True),
        "flat": StateDictOptions(flatten_optimizer_state_dict=True),
    }
    found = {}
    for kind, how in kinds.items():
        module = shard(model())
        made = optimizer(name, module, **settings)
        train(module, made, range(2))
        # torch gives and takes the tensors themselves
        state = deepcopy(get_optimizer_state_dict(module, made, options=how))
        other = shard(model())
        with torch.no_grad():
            for p, q in zip(other.parameters(), module.parameters(), strict=True):
                p.copy_(q)
        again = optimizer(name, other, **settings | {"lr": 0.7})
        set_optimizer_state_dict(other, again, state, options=how)
        train(module, made, range(2, STEPS))
        train(other, again, range(2, STEPS))
        found[kind] = (weights(module), weights(other))
    return found


def zero(name: str, settings: dict[str, Any], clip: float | None = None) -> Weights:
    """ZeRO-1 under DDP, saved and loaded half-way; the groups have too few parameters for four ranks."""
    module = DistributedDataParallel(model())
    made = zero_optimizer(name, module, **settings)
    for step in range(STEPS):
        made.zero_grad()
        loss(module, step, mine()).backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(module.parameters(), clip)
        made.step()
        if step == STEPS // 2:
            made.consolidate_state_dict(to=0)
            state = [deepcopy(made.state_dict()) if dist.get_rank() == 0 else None]
            dist.broadcast_object_list(state)
            made = zero_optimizer(name, module, **settings | {"lr": 0.7})
            made.load_state_dict(state[0])
    return weights(module)


def accumulated(name: str, settings: dict[str, Any]) -> Weights:
    """DDP, two micro-batches a step, of which the first is not reduced."""
    module = DistributedDataParallel(model())
    made = optimizer(name, module, **settings)
    for step in range(STEPS):
        made.zero_grad()
        for part in range(2):
            with module.no_sync() if part == 0 else nullcontext():
                (loss(module, step, mine(2, part)) / 2).backward()
        made.step()
    return weights(module)


def everything(cases: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What all of the above give, by case: an optimizer and its settings."""
    found: dict[str, dict[str, Any]] = {}
    for case, (name, settings) in cases.items():
        found[case] = {f"resumed {kind}": pair for kind, pair in resumed(name, settings).items()}
        found[case] |= {work.__name__: work(name, settings) for work in (fsdp, accumulated, zero)}
    found["LAMB nvlamb"]["zero"] = zero("LAMB", {}, clip=1.0)
    return found


def placed(cases: dict[str, tuple[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What tensor parallel can bring, by case: an optimizer and its settings."""
    return {case: _placed(name, settings) for case, (name, settings) in cases.items()}


def _placed(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Gradients in another order of memory, pending sums, and what cannot be."""
    draw = torch.Generator().manual_seed(0)
    w, g = (torch.randn(12, 8, generator=draw, dtype=torch.float64) for _ in range(2))
    kind: Any = getattr(optim, name)
    found: dict[str, Any] = {}
    ranks, rank = dist.get_world_size(), dist.get_rank()
    mesh = mesh_of((ranks,))

    def stepped(p: nn.Parameter, grad: Tensor) -> Tensor:
        p.grad = grad
        made = kind([p], **settings)
        made.step()
        made.step()
        return weights(nn.ParameterList([p]))["0"]

    found["one process"] = stepped(nn.Parameter(w.clone()), g)
    rows = distribute_tensor(w, mesh, [Shard(0)])
    here = distribute_tensor(g, mesh, [Shard(0)]).to_local()
    other_order = here.t().contiguous().t() if rank == 0 else here
    found["another order on one rank"] = stepped(nn.Parameter(rows), DTensor.from_local(other_order, mesh, [Shard(0)]))
    pending = DTensor.from_local(g * (rank + 1) * 2 / (ranks * (ranks + 1)), mesh, [Partial()])
    found["pending gradient"] = stepped(nn.Parameter(distribute_tensor(w, mesh, [Replicate()])), pending)
    whole, spread = nn.Parameter(w.clone()), nn.Parameter(rows)
    stepped(whole, g)
    saved = kind([whole], **settings)
    saved.step()
    try:
        kind([spread], **settings).load_state_dict(saved.state_dict())
    except ValueError as error:
        found["state of whole tensors"] = str(error)
    sums = nn.Parameter(DTensor.from_local(w / ranks, mesh, [Partial()]))
    try:
        stepped(sums, DTensor.from_local(g, mesh, [Partial()]))
    except ValueError as error:
        found["pending parameter"] = str(error)
    return found
