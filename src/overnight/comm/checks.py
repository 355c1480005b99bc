"""What is found out before the first step, so that no rank waits for another in vain."""

import hashlib
import importlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from overnight.errors import UserError

_taken: WeakSet[nn.Module] = WeakSet()


def join_ranks(backend: str | None = None, timeout_seconds: float = 300.0) -> dist.ProcessGroup:
    """Meet the other ranks that torchrun started, for people with their own loop.

    Args:
        backend: ``gloo``, ``nccl``; None is NCCL where there is a GPU, else gloo.
        timeout_seconds: how long any rank waits for another, now and at any later exchange.

    Raises:
        UserError: if the backend is not part of this torch, the timeout is no time, torchrun did not start this
            process, or the ranks do not meet in time; the message names the address.
    """
    timeout = timeout_of(timeout_seconds)
    chosen = backend or ("nccl" if torch.cuda.is_available() else "gloo")
    check_backend(chosen)
    names = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"{', '.join(missing)} not set: torchrun did not start this process.", "Start it with torchrun."
        )
    # its functions hold on to the group that is there when they are imported, and DDP imports them
    importlib.import_module("torch.distributed.nn.functional")
    with meeting_within(timeout_seconds):
        dist.init_process_group(chosen, timeout=timeout)
    return ranks_group(None)


def timeout_of(seconds: float) -> timedelta:
    """How long a rank waits.

    Raises:
        UserError: for what is no time.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0.0 < seconds < 1e8:
        raise UserError(f"timeout_seconds={seconds!r} is no time to wait.", "Give seconds above 0, such as 300.")
    return timedelta(seconds=seconds)


def check_backend(backend: str) -> None:
    """Raise a UserError if this torch has no such backend."""
    there = {"gloo": dist.is_gloo_available, "nccl": dist.is_nccl_available} if dist.is_available() else {}
    if not there.get(backend, lambda: False)():
        raise UserError(
            f"This torch has no backend {backend!r}.", "Choose gloo or nccl, and a torch that was built so."
        )


@contextmanager
def meeting_within(seconds: float) -> Iterator[None]:
    """Around what meets the other ranks at the address of torchrun's environment: one sentence if they do not."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        names = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE")
        address, port, rank, ranks = (os.environ.get(name, "?") for name in names)
        raise UserError(
            f"Rank {rank} of {ranks} did not meet the others at {address}:{port} within {seconds:g} s "
            f"({first_line(error)}).",
            "Look whether rank 0 runs there, whether this host reaches it, and whether all ranks were started.",
        ) from error


def ranks_group(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    """The given group, or that of all ranks.

    Raises:
        UserError: if there is none.
    """
    if group is not None:
        return group
    if not dist.is_available() or not dist.is_initialized():
        raise UserError(
            "There is no process group: the ranks have not met.",
            "Start with torchrun and call overnight.comm.join_ranks() first.",
        )
    world: dist.ProcessGroup = dist.distributed_c10d._get_default_group()
    return world


def same_everywhere(way: str, digests: Mapping[str, str], group: dist.ProcessGroup) -> None:
    """Raise a UserError on every rank if the ranks' digests differ.

    Args:
        way: to train together, compared first, since each compares other digests.
        digests: what they are of, such as ``model`` → digest.
        group: of the CPU.
    """
    _compare({"way to train together": f"{way} {list(digests)}"}, group)
    _compare(digests, group)


def _compare(digests: Mapping[str, str], group: dist.ProcessGroup) -> None:
    words = "".join(hashlib.sha256(f"{name} {digest}".encode()).hexdigest() for name, digest in digests.items())
    mine = torch.frombuffer(bytearray.fromhex(words), dtype=torch.uint8)
    parts = [torch.empty_like(mine) for _ in range(group.size())]
    dist.all_gather(parts, mine, group)
    for place, name in enumerate(digests):
        of_ranks = [part[32 * place : 32 * place + 32] for part in parts]
        differing = [rank for rank, digest in enumerate(of_ranks) if not torch.equal(digest, of_ranks[0])]
        if differing:
            raise UserError(
                f"The {name} of rank {', '.join(map(str, differing))} is not that of rank 0.",
                f"Start every rank with the same {name}, from the same files and arguments.",
            )


def model_digest(model: nn.Module) -> str:
    """Identity of a model's parameters: names, shapes, types, and whether they are trained. Not of their values."""
    lines = [f"{n} {list(p.shape)} {p.dtype} {p.requires_grad}" for n, p in model.named_parameters()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def sparse_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Those whose gradients are sparse: of modules with ``sparse=True`` such as ``nn.Embedding`` and overnight's."""
    found: dict[int, None] = {}
    for module in model.modules():
        if getattr(module, "sparse", False) is True:
            found |= {id(p): None for p in module.parameters(recurse=False)}
    return {name: p for name, p in model.named_parameters() if id(p) in found and p.requires_grad}


def refuse_sparse(model: nn.Module) -> None:
    """Raise a UserError for a module whose gradients are sparse: DDP has no buckets for rows."""
    names = list(sparse_parameters(model))
    if names:
        raise UserError(
            f"The gradients of {', '.join(names)} are sparse, and a hook of DDP cannot exchange them.",
            "Use sampled_parallel(model, plan), which can, or make the module with sparse=False.",
        )


def refuse_unknown_sparse(parameters: Iterable[nn.Parameter]) -> list[RemovableHandle]:
    """Let the first gradient of each raise a UserError if it is sparse, as of ``F.embedding(…, sparse=True)``.

    No module shows such gradients, and DDP ends at them in words of its own before it calls a hook.
    """
    handles: list[RemovableHandle] = []
    for parameter in parameters:

        def look(gradient: Tensor, place: int = len(handles)) -> None:
            handles[place].remove()
            if gradient.is_sparse:
                raise UserError(
                    f"A gradient of shape {list(gradient.shape)} is sparse, and DDP cannot exchange it.",
                    "Use overnight.nn.rows.SampledEmbedding under sampled_parallel, or sparse=False.",
                )

        handles.append(parameter.register_hook(look))
    return handles


def refuse_sharded(model: nn.Module) -> None:
    """Raise a UserError for a model of which each rank has a part: what exchanges whole gradients cannot take it."""
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "to_local"):
            raise UserError(
                f"{name} is shared out over the ranks already (FSDP), and cannot be exchanged in a second way.",
                "Choose one way to train together: fsdp, or one that exchanges whole gradients or weights.",
            )


def take(model: nn.Module) -> None:
    """Note that this model's gradients are exchanged.

    Raises:
        UserError: if they are already.
    """
    refuse_sharded(model)
    if isinstance(model, DistributedDataParallel) and model._comm_hooks:
        raise UserError("This DDP has a communication hook already.", "Make a new DDP: a hook is registered once.")
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    if inner in _taken:
        raise UserError(
            "The gradients of this model are exchanged already: it was registered twice.",
            "Call close() on the first, or register once.",
        )
    _taken.add(inner)


def release(model: nn.Module) -> None:
    """Forget ``take``."""
    _taken.discard(model)


def failed(error: BaseException, what: str) -> UserError:
    """The error of a rank whose exchange with the others failed or took too long."""
    address, port = os.environ.get("MASTER_ADDR", "?"), os.environ.get("MASTER_PORT", "?")
    return UserError(
        f"{what} failed ({first_line(error)}); the ranks met at {address}:{port}.",
        "Look for the rank that ended first; start again from the last checkpoint.",
    )


@contextmanager
def meeting() -> Iterator[None]:
    """Around what is exchanged before the first step, and the making of groups: a UserError if a rank does not come."""
    try:
        yield
    except RuntimeError as error:
        if lost(error):
            raise failed(error, "Meeting the other ranks") from error
        raise


def lost(error: BaseException) -> bool:
    """Whether an error is of the ranks' connection; gloo's are RuntimeErrors that name its source files."""
    return isinstance(error, dist.DistError) or "gloo/" in str(error)


def first_line(error: BaseException) -> str:
    """What an error says, without the rest of its lines, and gloo's addresses of source files."""
    text = str(error).partition("\n")[0]
    if "gloo/" in text:
        text = text.rpartition("] ")[2].partition(". This is")[0]
    return text.rstrip(".")
