"""The ways in which workers train together: those of `--parallel`, and torch's PowerSGD hook as a peer."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from benchmarks.parallel.jobs import Job
from overnight.comm import Meter, ring_bytes, strategies
from overnight.errors import UserError

EVERY = 16
"""Local steps between two exchanges."""
RANK, DENSE_STEPS = 4, 2
"""Of PowerSGD, and after how many steps it begins to compress."""
HIDDEN_RATE = {"byte": 0.25}
"""Share of the units that are exchanged in a step; 0.5 for the others."""


@dataclass(frozen=True)
class Way:
    """How one worker trains with the others.

    Attributes:
        strategy: what the trainer would hold.
        period: steps between two exchanges.
        formula: the bytes of one exchange that a worker sends by the formula; None where there is none.
        warm_up: steps before it is what it will be.
    """

    strategy: strategies.Strategy
    period: int = 1
    formula: Callable[[], float] | None = None
    warm_up: int = 3


def samples_words(mode: str) -> bool:
    """Whether the output layer is a sampled softmax in training."""
    return "sampled" in mode


def way(mode: str, job: Job, model: str, seed: int, seconds: float) -> Way:
    """The way of this name, for all ranks of the default group."""
    ranks = dist.get_world_size()
    named = [(name, p) for name, p in job.task.named_parameters() if p.requires_grad]
    count = sum(p.numel() for _, p in named)
    options: dict[str, Any] = {"timeout_seconds": seconds, "seed": seed}
    name, _, dtype = mode.partition("-bf16")
    if mode == "bf16" or dtype or mode.endswith("-bf16"):
        options["dtype"] = "bf16"
    itemsize = 2 if "dtype" in options else 4
    if name in ("ddp", "bf16") and ranks == 1:
        return Way(_alone_in_ddp(job.task, options.get("dtype")))
    if name in ("ddp", "bf16"):
        return Way(strategies.ddp(job.task, **options), formula=lambda: ring_bytes(count, ranks, itemsize))
    if name in ("sampled", "sampled-hidden", "hidden"):
        if name != "hidden":
            options |= {"rows": ["model.output.*"], "random": job.random, "frequent": job.frequent}
        if name != "sampled":
            options |= {"hidden": list(job.blocks.items()), "rate": HIDDEN_RATE.get(model, 0.5)}
        made = strategies.sampled(job.task, **options)
        exchange = made.parallel.exchange  # type: ignore[attr-defined]
        return Way(made, formula=lambda: ring_bytes(exchange.plan.elements(named, exchange.touched), ranks, itemsize))
    if name in ("local", "local-sampled"):
        made = strategies.local(job.task, every=EVERY, **options)
        dense = None if samples_words(name) else (lambda: ring_bytes(count, ranks, itemsize))
        return Way(made, EVERY, dense)
    if name == "powersgd":
        return _power_sgd(job.task, named, ranks)
    raise UserError(f"There is no mode {mode!r}.", "See benchmarks/parallel/cells.py.")


def _alone_in_ddp(task: nn.Module, dtype: str | None) -> strategies.Strategy:
    """With the buckets that one process goes without."""
    wrapped = DistributedDataParallel(task, gradient_as_bucket_view=True)
    wrapped.register_comm_hook(dist.group.WORLD, strategies._mean if dtype is None else strategies._mean_bf16)
    return strategies.Strategy(wrapped)


def _power_sgd(task: nn.Module, named: list[tuple[str, nn.Parameter]], ranks: int) -> Way:
    # one bucket: with several, torch's hook crashed or hung over gloo (docs/methods/sampled_gradients.md)
    wrapped = DistributedDataParallel(task, gradient_as_bucket_view=True, bucket_cap_mb=1 << 20)
    state = PowerSGDState(None, matrix_approximation_rank=RANK, start_powerSGD_iter=DENSE_STEPS)
    meter = Meter()
    wrapped.register_comm_hook(state, meter.wrap(powerSGD_hook))
    sent = 0
    for _, p in named:
        rows, columns = len(p), p.numel() // len(p)
        small = RANK * (rows + columns)
        sent += small if p.ndim > 1 and state.min_compression_rate * small < p.numel() else p.numel()
    return Way(strategies.Strategy(wrapped, meter), formula=lambda: ring_bytes(sent, ranks), warm_up=DENSE_STEPS + 3)


def alone(task: nn.Module) -> Way:
    """One worker."""
    return Way(strategies.Strategy(task))


def optimizer(job: Job, sparse: bool) -> torch.optim.Optimizer:
    """Adam for bytes; plain SGD for words, of rows where gradients are."""
    from overnight.optim.rows import RowSGD

    if job.adam:
        return torch.optim.Adam(job.task.parameters(), lr=job.lr, betas=(0.9, 0.99))
    return (RowSGD if sparse else torch.optim.SGD)(job.task.parameters(), lr=job.lr)
