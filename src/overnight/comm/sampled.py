"""Sampled gradients: data-parallel training that exchanges only rows of the gradients, the same rows on every rank."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from overnight.comm.checks import failed, lost, meeting, sparse_parameters
from overnight.comm.exchange import SampledState
from overnight.comm.meter import Meter
from overnight.comm.plan import Plan
from overnight.comm.row_groups import RowExchange
from overnight.errors import UserError


def sampled_hook(state: SampledState, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:  # type: ignore[name-defined]
    """A DDP communication hook: packs the rows of a bucket, and exchanges them by one all-reduce.

        ddp.register_comm_hook(SampledState(ddp, plan), sampled_hook)

    Gradients become the mean over the ranks in the rows of the step, and zero in the others. With every parameter
    exchanged whole it is DDP without a hook.

    Args:
        state: made with the same DDP.
        bucket: of dense gradients.
    """
    buffer: torch.Tensor = bucket.buffer()
    gradients = bucket.gradients()
    state.begin(again=bucket.index() == 0)
    pieces = [state.pack(p, g) for p, g in zip(bucket.parameters(), gradients, strict=True)]
    if state.plan.dtype is None and all(piece.ids_R is None and piece.settle is None for piece in pieces):
        whole: torch.futures.Future[Any] = dist.all_reduce(
            buffer.mul_(1.0 / state.ranks), group=state.group, async_op=True
        ).get_future()
        reduced: torch.futures.Future[torch.Tensor] = whole.then(_only)
        return reduced
    sends = [piece.send for piece in pieces]
    packed = state.flat(sends)
    if packed.dtype != buffer.dtype:
        rounded = packed.to(buffer.dtype).mul_(state.ranks).split([send.numel() for send in sends])
        sends = [part.view_as(send) for part, send in zip(rounded, sends, strict=True)]
    sent = [send if piece.settle is not None else None for send, piece in zip(sends, pieces, strict=True)]
    sizes = [piece.send.numel() for piece in pieces]

    def unpack(future: torch.futures.Future[Any]) -> torch.Tensor:
        parts = future.value()[0].to(buffer.dtype).split(sizes)
        for gradient, piece, given, part in zip(gradients, pieces, sent, parts, strict=True):
            received = part.view_as(piece.send)
            if piece.ids_R is None:
                gradient.copy_(received)
            else:
                gradient.zero_().index_copy_(0, piece.ids_R, received)
            if piece.settle is not None and given is not None:
                piece.settle(given, received)
        return buffer

    under_way: torch.futures.Future[Any] = dist.all_reduce(packed, group=state.group, async_op=True).get_future()
    exchanged: torch.futures.Future[torch.Tensor] = under_way.then(unpack)
    return exchanged


def _only(future: torch.futures.Future[Any]) -> torch.Tensor:
    tensor: torch.Tensor = future.value()[0]
    return tensor


class SampledParallel(nn.Module):
    """A model whose gradients are exchanged by rows in backward; made by ``sampled_parallel``, used as DDP is.

    Attributes:
        module: the model.
        exchange: step and residual, with ``state_dict`` and ``load_state_dict`` of their own, to be saved beside the
            model's.
        meter: see ``sampled_parallel``.
    """

    def __init__(self, model: nn.Module, exchange: SampledState, meter: Meter | None, **ddp: Any) -> None:
        super().__init__()
        self.module, self.exchange, self.meter = model, exchange, meter
        self._syncs = True
        self._rows: RowExchange | None = None
        self._ddp: tuple[DistributedDataParallel, ...] = ()  # a tuple, so that its parameters are not ours twice
        try:
            with meeting():
                self._join(model, exchange, meter, ddp)
        except BaseException:
            self.close()
            raise

    def _join(self, model: nn.Module, exchange: SampledState, meter: Meter | None, ddp: Mapping[str, Any]) -> None:
        exchange.group = exchange.residual.group = dist.new_group(exchange.members, exchange.timeout)
        exchange.meter = meter
        sparse = sparse_parameters(model)
        apart = {id(p) for p in sparse.values()}
        if sparse:
            group = dist.new_group(exchange.members, exchange.timeout)
            _same_start(model, [p for p in model.parameters() if id(p) in apart], exchange, group)
            self._rows = RowExchange(exchange, sparse, model, group, meter)
        if any(p.requires_grad and id(p) not in apart for p in model.parameters()):
            with _ignored(model, apart):
                wrapped = DistributedDataParallel(model, process_group=exchange.group, **ddp)
            wrapped.register_comm_hook(exchange, sampled_hook if meter is None else _metered(meter))
            self._ddp = (wrapped,)

    @property
    def process_group(self) -> dist.ProcessGroup:
        """The ranks that train together."""
        found: dist.ProcessGroup = self.exchange.group
        return found

    @property
    def reducer(self) -> DistributedDataParallel | None:
        """What exchanges the dense gradients; None where there are none."""
        return self._ddp[0] if self._ddp else None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's."""
        if self._rows is not None and torch.is_grad_enabled():
            # DDP too decides here whether the backward exchanges
            self._rows.syncing = self._syncs
        self.exchange.forget_failed()
        if not self._ddp:
            return self.module(*args, **kwargs)
        try:
            return self._ddp[0](*args, **kwargs)
        except RuntimeError as error:
            if lost(error):
                raise failed(error, "DDP's exchange before the forward") from error
            raise

    @contextmanager
    def no_sync(self) -> Iterator[None]:
        """Forwards and backwards that only add to the gradients of this rank, as in DDP."""
        before, self._syncs = self._syncs, False
        try:
            if self._ddp:
                with self._ddp[0].no_sync():
                    yield
            else:
                yield
        finally:
            self._syncs = before

    def close(self) -> None:
        """Give up the exchange, before the process group ends or to register the model again."""
        if self._rows is not None:
            for handle in self._rows.handles:
                handle.remove()
        self._ddp, self._rows = (), None
        self.exchange.close()


def sampled_parallel(
    model: nn.Module,
    plan: Plan | None = None,
    *,
    process_group: dist.ProcessGroup | None = None,
    data: str = "",
    loss_scale: Callable[[], float] | None = None,
    meter: Meter | None = None,
    timeout_seconds: float = 300.0,
    **ddp: Any,
) -> SampledParallel:
    """Train a model on all ranks, exchanging of its gradients what the plan says; ranks stay alike bit for bit.

        parallel = sampled_parallel(model, Plan({"output.*": Rows(random=0.08, frequent=0.02)}))
        parallel(batch).backward()              # p.grad is the mean over the ranks
        clip_grad_norm_(...); optimizer.step()

    Dense gradients go through DDP and ``sampled_hook``; sparse ones are packed beside it, and stay sparse. A layer that
    samples its output takes the rows of the plan as its samples.

    Args:
        model: on its device.
        plan: None exchanges dense gradients whole, and of sparse ones the rows that any rank has.
        process_group: of the ranks; None is the default one.
        data: identity of the data, such as a digest, compared over the ranks.
        loss_scale: factor of the loss, such as ``GradScaler.get_scale``.
        meter: counts bytes and seconds.
        timeout_seconds: after which a rank gives up on the others, now or in any exchange.
        ddp: further arguments of ``DistributedDataParallel``.

    Raises:
        UserError: on every rank, if models, plans, data or versions of torch differ; if the plan does not fit the
            model; for a model that is wrapped or registered already; without a process group.
    """
    if isinstance(model, DistributedDataParallel | SampledParallel):
        raise UserError(
            f"The model is wrapped in {type(model).__name__} already.",
            "Give sampled_parallel the model itself, or DDP a SampledState and sampled_hook.",
        )
    state = SampledState(
        model, plan or Plan(), process_group=process_group, data=data, loss_scale=loss_scale,
        timeout_seconds=timeout_seconds, sparse=True,
    )  # fmt: skip
    return SampledParallel(model, state, meter, **ddp)


def _metered(meter: Meter) -> Any:
    hook = meter.wrap(sampled_hook, steps=False, callbacks=False)

    def metered(state: SampledState, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:  # type: ignore[name-defined]
        if state.begin():
            meter.step()
        return hook(state, bucket)

    return metered


@contextmanager
def _ignored(model: nn.Module, apart: set[int]) -> Iterator[None]:
    """Let a DDP that is made meanwhile leave these parameters alone; a later one shall not."""
    name = "_ddp_params_and_buffers_to_ignore"
    before = getattr(model, name, None)
    names = [n for n, p in model.named_parameters(remove_duplicate=False) if id(p) in apart]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, [*(before or []), *names])
    try:
        yield
    finally:
        delattr(model, name)
        if before is not None:
            setattr(model, name, before)
        for n, p in model.named_parameters():
            if id(p) in apart and hasattr(p, "_ddp_ignored") and n not in (before or []):
                del p._ddp_ignored


def _same_start(
    model: nn.Module, parameters: list[nn.Parameter], state: SampledState, group: dist.ProcessGroup
) -> None:
    """Rank 0's values of what DDP does not look after, and of the generators of output layers that sample."""
    first = state.members[0]
    with torch.no_grad():
        for parameter in parameters:
            dist.broadcast(parameter.detach(), first, group)
    for module in model.modules():
        generator = getattr(module, "generator", None)
        if isinstance(generator, torch.Generator) and generator.device.type == "cpu":
            words = generator.get_state()
            dist.broadcast(words, first, state.cpu_group)
            generator.set_state(words)
