"""Ways to train on several ranks, under one protocol that a trainer can hold (``overnight.train.parallel``).

Each takes the module that is called in training and what the trainer gives with it, and returns a ``Strategy``.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from overnight.comm.checks import (
    meeting,
    model_digest,
    ranks_group,
    refuse_sharded,
    refuse_sparse,
    refuse_unknown_sparse,
    same_everywhere,
    timeout_of,
)
from overnight.comm.fully_sharded import fsdp
from overnight.comm.inner_state import even_out
from overnight.comm.local_steps import LocalSteps
from overnight.comm.meter import Meter
from overnight.comm.plan import Compensation, HiddenRows, Plan, Rows, Rule
from overnight.comm.residual import ResidualMode
from overnight.comm.sampled import sampled_parallel
from overnight.comm.strategy import Strategy
from overnight.errors import UserError

__all__ = ["Strategy", "ddp", "fsdp", "local", "row_plan", "sampled"]

Dtype = Literal["bf16"] | None
TIMEOUT_SECONDS = 300.0


def ddp(
    module: nn.Module,
    *,
    dtype: Dtype = None,
    data: str = "",
    seed: int = 0,
    loss_scale: Callable[[], float] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Strategy:
    """DDP, metered: every gradient whole, every step.

    Args:
        module: what is called in training.
        dtype: ``bf16`` exchanges bfloat16.
        data: identity of the data, compared over the ranks.
        seed, loss_scale, optimizer: not used.
        timeout_seconds: after which a rank gives up on the others.

    Raises:
        UserError: for an unknown ``dtype`` or sparse gradients; on every rank, if models or data differ.
    """
    if dtype not in (None, "bf16"):
        raise UserError(f"dtype={dtype!r} is not known.", "Choose bf16, or None for the gradients' own.")
    timeout, group = timeout_of(timeout_seconds), ranks_group(None)
    if group.size() == 1:
        return Strategy(module)
    members = dist.get_process_group_ranks(group)
    with meeting():
        same_everywhere("DDP", {"model": model_digest(module), "data": data}, dist.new_group(members, timeout, "gloo"))
    refuse_sparse(module)
    refuse_sharded(module)
    refuse_unknown_sparse(p for p in module.parameters() if p.requires_grad)
    meter = Meter()
    with meeting():
        group = dist.new_group(members, timeout)
        wrapped = DistributedDataParallel(module, process_group=group, gradient_as_bucket_view=True)
    wrapped.register_comm_hook(group, meter.wrap(_mean if dtype is None else _mean_bf16, callbacks=False))
    return Strategy(wrapped, meter)


def _mean(group: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    # multiplied, as DDP without a hook does it: a division by three ranks is another number
    buffer = bucket.buffer()
    mean = dist.all_reduce(buffer.mul_(1.0 / group.size()), group=group, async_op=True)
    reduced: torch.futures.Future[Tensor] = mean.get_future().then(_only)
    return reduced


def _mean_bf16(group: dist.ProcessGroup, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    # torch's own hook of this kind is refused without NCCL
    buffer = bucket.buffer()
    packed = buffer.mul_(1.0 / group.size()).to(torch.bfloat16)
    mean = dist.all_reduce(packed, group=group, async_op=True)
    reduced: torch.futures.Future[Tensor] = mean.get_future().then(lambda done: buffer.copy_(done.value()[0]))
    return reduced


def _only(future: torch.futures.Future[Any]) -> Tensor:
    tensor: Tensor = future.value()[0]
    return tensor


class _Sampled(Strategy):
    name = "sampled"

    def __init__(self, module: nn.Module, plan: Plan, residual: ResidualMode, **options: Any) -> None:
        meter = Meter()
        self.parallel = sampled_parallel(module, plan, meter=meter, gradient_as_bucket_view=True, **options)
        super().__init__(self.parallel, meter)
        self.residual, self.per_rank = residual, residual == "per_rank"

    def forget(self) -> None:
        super().forget()
        plan = self.parallel.exchange.plan
        self.load_state_dict({"plan": plan.digest(), "mode": "drop", "step": 0, "residual": {}})

    def skipped(self) -> None:
        self.parallel.exchange.undo()

    def state_dict(self) -> dict[str, Any]:
        return self.parallel.exchange.state_dict(self.residual)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        if saved:
            self.parallel.exchange.load_state_dict(saved)

    def close(self) -> None:
        self.parallel.close()


def sampled(
    module: nn.Module,
    *,
    rows: Sequence[str] = (),
    random: float = 0.08,
    frequent: float = 0.02,
    touched: bool = True,
    embeddings: Sequence[str] = (),
    hidden: Sequence[tuple[str, int]] = (),
    rate: float = 0.5,
    compensation: Compensation = "residual",
    dtype: Dtype = None,
    residual: ResidualMode = "flush",
    data: str = "",
    seed: int = 0,
    loss_scale: Callable[[], float] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Strategy:
    """Sampled gradients: of some parameters only rows are exchanged, every step (docs/methods/sampled_gradients.md).

    Args:
        module: what is called in training.
        rows: patterns of the names of parameters with a row for each word, such as ``model.output.*``.
        random, frequent, touched: of these; see ``overnight.comm.Rows``.
        embeddings: patterns of parameters with dense gradients in the rows of the batch, which are exchanged.
        hidden: patterns of parameters with rows for each unit, with the number of blocks of such rows (4 in an LSTM).
        rate: share of these units that are exchanged in a step; in (0, 1].
        compensation: of what is not exchanged; see ``overnight.comm.Compensation``.
        dtype: ``bf16`` exchanges bfloat16.
        residual: what a checkpoint holds of the residual; see ``overnight.comm.residual.ResidualMode``.
        data: identity of the data, compared over the ranks.
        seed: of the drawn rows.
        loss_scale: factor of the loss.
        optimizer: not used.
        timeout_seconds: after which a rank gives up on the others.

    Raises:
        UserError: for patterns that name no parameter, rates outside (0, 1], or an unknown option; on every rank, if
            models, plans, data or versions of torch differ.
    """
    if residual not in ("flush", "per_rank", "drop"):
        raise UserError(f"residual={residual!r} is not known.", "Choose flush, per_rank or drop.")
    plan = row_plan(
        rows, random, frequent, touched, embeddings, hidden, rate, compensation=compensation, dtype=dtype, seed=seed
    )
    return _Sampled(module, plan, residual, data=data, loss_scale=loss_scale, timeout_seconds=timeout_seconds)


def row_plan(
    rows: Sequence[str],
    random: float,
    frequent: float,
    touched: bool,
    embeddings: Sequence[str],
    hidden: Sequence[tuple[str, int]],
    rate: float,
    *,
    compensation: Compensation = "residual",
    dtype: Dtype = None,
    seed: int = 0,
) -> Plan:
    """The plan of ``sampled``'s arguments.

    >>> row_plan(["output.*"], 0.08, 0.02, True, [], [("rnn.weight*", 4)], 0.5).rule("rnn.weight_hh_l0")
    HiddenRows(rate=0.5, blocks=4, compensation='residual')
    """
    rules: dict[str, Rule] = {}
    for pattern in _patterns("rows", rows):
        rules[pattern] = Rows(random, frequent, touched, compensation)
    for pattern in _patterns("embeddings", embeddings):
        # those of the batch, and one that is drawn since a rule of rows draws
        rules.setdefault(pattern, Rows(1e-9, 0.0, True, compensation))
    for entry in hidden:
        if isinstance(entry, str) or len(entry) != 2:
            raise UserError(f"hidden={hidden!r} is not understood.", "Write it as [[PATTERN, BLOCKS], …].")
        rules.setdefault(entry[0], HiddenRows(rate, entry[1], compensation))
    if not rules:
        raise UserError(
            "The plan names no parameter of which rows are exchanged.",
            "Give patterns of names as rows, embeddings or hidden, or train with --parallel ddp.",
        )
    return Plan(rules, seed, dtype)


def _patterns(name: str, patterns: Sequence[str]) -> Sequence[str]:
    if isinstance(patterns, str):
        raise UserError(f"{name}={patterns!r} is not a list of patterns.", f'Write it as {name}=["{patterns}"].')
    return patterns


class _Local(Strategy):
    name = "local"
    synchronous = False

    def __init__(self, steps: LocalSteps, meter: Meter, optimizer: torch.optim.Optimizer | None) -> None:
        super().__init__(steps.module, meter)
        self.steps, self.optimizer = steps, optimizer
        self._met = True

    @property
    def met(self) -> bool:
        return self._met

    def after_update(self) -> None:
        if self.steps.since_exchange + 1 >= self.steps.every:
            self._settle()
        self._met = self.steps.step()

    def before_checkpoint(self) -> None:
        if self.steps.since_exchange:
            self._settle()
        self.steps.exchange_now()
        self._met = True

    def state_dict(self) -> dict[str, Any]:
        self.before_checkpoint()
        if self.optimizer is not None:
            even_out(self.optimizer, self.steps.group)
        return self.steps.state_dict("flush")

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        anew: dict[str, Any] = {"mode": "drop", "since_exchange": 0, "outer": {}, "momentum_buffer": {}, "residual": {}}
        self.steps.load_state_dict(anew | dict(saved))
        self._met = True

    def close(self) -> None:
        self.steps.close()

    def _settle(self) -> None:
        """The weight decay that an optimizer of rows has outstanding belongs to what is exchanged."""
        settle = getattr(self.optimizer, "settle", None)
        if settle is not None:
            settle()


def local(
    module: nn.Module,
    *,
    every: int = 32,
    outer_lr: float = 0.7,
    momentum: float = 0.9,
    nesterov: bool = True,
    dtype: Dtype = None,
    data: str = "",
    seed: int = 0,
    loss_scale: Callable[[], float] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Strategy:
    """Local steps: each rank trains alone for some updates, then all meet at an outer step (``LocalSteps``).

    For a checkpoint they meet too; then the moments of the optimizer, which differ, become their mean over the ranks.

    Args:
        module: what is called in training.
        every: H, updates between two exchanges.
        outer_lr, momentum, nesterov: of the outer step.
        dtype: ``bf16`` exchanges bfloat16.
        data: identity of the data, compared over the ranks.
        seed, loss_scale: not used.
        optimizer: the inner one.
        timeout_seconds: after which a rank gives up on the others.

    Raises:
        UserError: for settings outside their range; on every rank, if models, settings, data or versions of torch
            differ.
    """
    meter = Meter()
    steps = LocalSteps(
        module, every=every, outer_lr=outer_lr, momentum=momentum, nesterov=nesterov, dtype=dtype, data=data,
        meter=meter, timeout_seconds=timeout_seconds,
    )  # fmt: skip
    return _Local(steps, meter, optimizer)
