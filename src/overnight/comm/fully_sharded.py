"""FSDP2 as a way to train together: each rank keeps a part of every weight, gradient and optimizer state."""

import fnmatch
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from overnight.comm.checks import (
    meeting,
    model_digest,
    ranks_group,
    release,
    same_everywhere,
    sparse_parameters,
    take,
    timeout_of,
)
from overnight.comm.strategy import Strategy
from overnight.errors import UserError

Dtype = Literal["bf16"] | None
DTYPES = {None: None, "bf16": torch.bfloat16}


class FullySharded(Strategy):
    """What ``fsdp`` makes. ``module`` is called in training; parameters of the module that was given are DTensors."""

    name = "fsdp"
    sharded = True

    def __init__(self, given: nn.Module, module: nn.Module) -> None:
        super().__init__(module)
        self.given = given

    def close(self) -> None:
        release(self.given)


def fsdp(
    module: nn.Module,
    *,
    layers: Sequence[str] = (),
    reshard: bool = True,
    dtype: Dtype = None,
    param_dtype: Dtype = None,
    data: str = "",
    seed: int = 0,
    loss_scale: Callable[[], float] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    timeout_seconds: float = 300.0,
) -> FullySharded:
    """FSDP2 (``torch.distributed.fsdp.fully_shard``): of n ranks each keeps an n-th of weights, gradients and moments.

    Weights are put together layer by layer for forward and backward, gradients averaged over the ranks into the parts.
    The optimizer then updates its part; LAMB's and LARS's norms are those of whole layers. Of micro-batches under
    ``no_sync`` gradients stay on the rank, whole. The parameters of ``module`` become ``DTensor`` s, in its optimizer
    too; call the strategy's ``module``, never parts of the one that was given.

    Args:
        module: what is called in training; what it returns may be a dataclass.
        layers: patterns of the names of modules that are put together one at a time, such as ``model.layer*.*``; the
            rest of ``module``, or all of it without patterns, is put together for a whole step. Their parameters must
            be used in their own forward only.
        reshard: give up a layer's other parts after its forward, and gather them again for its backward: less memory,
            half as many bytes again.
        dtype: ``bf16`` averages gradients in bfloat16; None in the parameters' own type.
        param_dtype: ``bf16`` gathers weights, and computes, in bfloat16; the parts stay as they are.
        data: identity of the data, compared over the ranks.
        seed, loss_scale: not used.
        optimizer: of the module's parameters, before its first step; None for one that is made afterwards.
        timeout_seconds: after which a rank gives up on the others.

    Raises:
        UserError: for sparse gradients, patterns that name nothing, an optimizer that has made steps, a module whose
            gradients are exchanged in another way, unknown types, or batch norms with ``param_dtype``; on every rank,
            if models or data differ.
    """
    for name, value in {"dtype": dtype, "param_dtype": param_dtype}.items():
        if value not in DTYPES:
            raise UserError(f"{name}={value!r} is not known.", "Choose bf16, or None for the parameters' own.")
    timeout, group = timeout_of(timeout_seconds), ranks_group(None)
    _check(module, param_dtype, optimizer)
    blocks = _blocks(module, layers)
    take(module)
    members = dist.get_process_group_ranks(group)
    with meeting():
        same_everywhere("FSDP", {"model": model_digest(module), "data": data}, dist.new_group(members, timeout, "gloo"))
        group = dist.new_group(members, timeout)
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    before = list(module.parameters())
    with meeting(), torch.no_grad():
        for parameter in before:
            parameter.data = parameter.data.contiguous()  # FSDP2 does not take channels-last
        for tensor in (*before, *module.buffers()):
            dist.broadcast(tensor, group_src=0, group=group)
    mesh = DeviceMesh.from_group(group, before[0].device.type)
    policy = MixedPrecisionPolicy(param_dtype=DTYPES[param_dtype], reduce_dtype=DTYPES[dtype])
    root = _Root(module)
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=reshard, mp_policy=policy)
    fully_shard(root, mesh=mesh, mp_policy=policy)
    if optimizer is not None:
        _move(optimizer, dict(zip(before, module.parameters(), strict=True)))
    return FullySharded(module, _Called(root))


def _check(module: nn.Module, param_dtype: Dtype, optimizer: torch.optim.Optimizer | None) -> None:
    names = list(sparse_parameters(module))
    if names:
        raise UserError(
            f"The gradients of {', '.join(names)} are sparse, and FSDP has no rows to average.",
            "Make the module with sparse=False, or train with --parallel sampled or async, which exchange rows.",
        )
    if param_dtype is not None and any(isinstance(part, _BatchNorm) for part in module.modules()):
        raise UserError(
            "Batch norms do not take weights in bfloat16.",
            "Leave out param_dtype; --precision bf16 computes in bfloat16 all the same.",
        )
    if hasattr(optimizer, "settle"):
        raise UserError(
            f"{type(optimizer).__name__} keeps books of single rows, and under FSDP no rank has all of them.",
            "Choose an optimizer without rows, such as --optimizer adam, or train with --parallel sampled or async.",
        )
    if optimizer is not None and optimizer.state:
        raise UserError("The optimizer has made steps on whole parameters.", "Give it before its first step.")
    if next(module.parameters(), None) is None:
        raise UserError("The module has no parameters to share out.", "Give one that is trained.")


def _blocks(module: nn.Module, patterns: Sequence[str]) -> list[nn.Module]:
    """Modules by the names that match, the innermost first."""
    if isinstance(patterns, str):
        raise UserError(f"layers={patterns!r} is not a list of patterns.", f'Write it as layers=["{patterns}"].')
    named = {name: part for name, part in module.named_modules() if name}
    found: dict[str, nn.Module] = {}
    for pattern in patterns:
        depth = pattern.count(".")
        # a star is a part of a name, and not all that follows
        matched = {n: part for n, part in named.items() if n.count(".") == depth and fnmatch.fnmatchcase(n, pattern)}
        matched = {n: part for n, part in matched.items() if next(part.parameters(), None) is not None}
        if not matched:
            raise UserError(
                f"layers: {pattern!r} names no module with parameters.",
                f"Names are such as {', '.join(list(named)[1:4])}.",
            )
        found |= matched
    return [found[name] for name in sorted(found, key=lambda name: -name.count("."))]


def _move(optimizer: torch.optim.Optimizer, to: dict[nn.Parameter, nn.Parameter]) -> None:
    """Let an optimizer have the sharded parameters in the place of those that were whole."""
    strange = [p for group in optimizer.param_groups for p in group["params"] if p not in to]
    if strange:
        raise UserError("The optimizer has parameters that the module has not.", "Make it of the module's parameters.")
    for group in optimizer.param_groups:
        group["params"] = [to[p] for p in group["params"]]


class _Root(nn.Module):
    """Returns what FSDP2 can look into: it puts its hooks on tensors in dicts, and does not see a dataclass."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.kind: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = self.module(*args, **kwargs)
        if not is_dataclass(found):
            self.kind = None
            return found
        self.kind = type(found)
        return {item.name: getattr(found, item.name) for item in fields(found)}


class _Called(nn.Module):
    """The root as a module that returns what the module it was made of does."""

    def __init__(self, root: Any) -> None:
        super().__init__()
        self.root = root

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        found = self.root(*args, **kwargs)
        return found if self.root.kind is None else self.root.kind(**found)

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Gradients stay on this rank, and are averaged with those of the first backward outside."""
        self.root.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.root.set_requires_gradient_sync(True)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, put together if it is spread over ranks: then a collective."""
    found: Tensor = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return found


def spread(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same on all ranks, in the manner of ``like``: this rank's part, if that is one."""
    if not hasattr(like, "to_local") or hasattr(value, "to_local"):
        return value
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
