"""Local steps (DiLoCo): ranks train alone for H steps, then meet at an outer step along their mean displacement.

Shape suffixes: R rows exchanged.
"""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from overnight.comm.checks import (
    failed,
    lost,
    model_digest,
    ranks_group,
    release,
    same_everywhere,
    sparse_parameters,
    take,
)
from overnight.comm.meter import Meter
from overnight.comm.residual import Residual, ResidualMode
from overnight.comm.sampled import SampledParallel
from overnight.errors import UserError

BUCKET_BYTES = 25 * 2**20
"""Of one all-reduce, as in DDP; a larger parameter is an all-reduce of its own."""


@dataclass(frozen=True)
class _UnderWay:
    names: list[str]
    rows: list[Tensor | None]
    shapes: list[torch.Size]
    packed: Tensor
    left: dict[str, Tensor]
    work: dist.Work | None


class LocalSteps:
    """Data-parallel training whose ranks exchange weights every H steps instead of gradients every step.

    Each rank r takes H steps of its own optimizer from θ to θ_r; then, with Δ exchanged by all-reduce,

        Δ ← θ - mean_r θ_r,    v ← μ v + Δ,    θ ← θ - η (Δ + μ v)  (Nesterov; η v without),    θ_r ← θ

    so all ranks are alike bit for bit after each exchange, and a step costs 1/H of DDP's bytes. The state of the inner
    optimizer stays each rank's own. With H = 1, η = 1, μ = 0 and SGD inside it is DDP.

        local = LocalSteps(model, every=50)
        for batch in batches:                   # this rank's own
            model(batch).backward(); optimizer.step(); optimizer.zero_grad()
            local.step()
        local.exchange_now()                    # also before an evaluation of what all ranks have learnt

    Of parameters with sparse gradients only rows that changed on any rank are exchanged, which loses nothing. Buffers
    of the model's ``state_dict`` become their mean over the ranks, or rank 0's if they are no floating-point numbers.
    θ, v and Δ are float32 for parameters of 16 bits.

    Args:
        model: on its device, with its starting weights; those of rank 0 are given to all.
        every: H, inner steps between two exchanges.
        outer_lr: η.
        momentum: μ; 0 keeps no v.
        nesterov: see above.
        dtype: ``bf16`` exchanges Δ of parameters in bfloat16; what rounding takes away, each rank adds to its next Δ.
        process_group: of the ranks; None is the default one.
        data: identity of the data, such as a digest, compared over the ranks.
        meter: counts bytes and seconds; its steps are inner steps.
        timeout_seconds: after which a rank gives up on the others, now or in any exchange.

    Attributes:
        module: the model.
        outer: name → θ, in float32 at least.
        momentum_buffer: name → v.
        residual: what rounding to bfloat16 has left.
        since_exchange: inner steps since the last exchange.

    Raises:
        UserError: for settings outside their range; on every rank, if models, settings, data or versions of torch
            differ; for a model that is wrapped or registered already; without a process group.

    Reference: Douillard et al. 2023, DiLoCo, arXiv 2311.08105, Algorithm 1 (H = 500, η = 0.7, μ = 0.9, AdamW inside).
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        every: int,
        outer_lr: float = 0.7,
        momentum: float = 0.9,
        nesterov: bool = True,
        dtype: Literal["bf16"] | None = None,
        process_group: dist.ProcessGroup | None = None,
        data: str = "",
        meter: Meter | None = None,
        timeout_seconds: float = 300.0,
    ) -> None:
        _check(every, outer_lr, momentum, dtype)
        if isinstance(model, DistributedDataParallel | SampledParallel):
            raise UserError(
                f"The model is wrapped in {type(model).__name__} already.", "Give LocalSteps the model itself."
            )
        group = ranks_group(process_group)
        members, timeout = dist.get_process_group_ranks(group), timedelta(seconds=timeout_seconds)
        self.module, self.meter = model, meter
        self.every, self.outer_lr, self.momentum, self.nesterov, self.dtype = every, outer_lr, momentum, nesterov, dtype
        outer_step = f"{every} {outer_lr} {momentum} {nesterov} {dtype}"
        digests = {"model": model_digest(model), "buffers": _buffer_digest(model), "outer step": outer_step}
        same_everywhere(digests | {"data": data, "torch": torch.__version__}, dist.new_group(members, timeout, "gloo"))
        take(model)
        self.group, self._first = dist.new_group(members, timeout), members[0]
        self.ranks, self.rank = self.group.size(), self.group.rank()
        self.residual = Residual(self.group)
        self._parameters = [name for name, p in model.named_parameters() if p.requires_grad]
        self._sparse = list(sparse_parameters(model))
        with self._exchanging(), torch.no_grad():
            for tensor in [*(p.detach() for p in model.parameters()), *_buffers(model).values()]:
                self._from_first(tensor)
        self.outer = {name: tensor.to(_wide(tensor), copy=True) for name, tensor in self._tensors().items()}
        self.momentum_buffer: dict[str, Tensor] = {}
        self.since_exchange = 0
        self._buckets = self._bucketed()

    def step(self) -> bool:
        """Count an inner step, after ``optimizer.step()``; exchange if it is the H-th. Every rank must.

        Returns:
            Whether the ranks have exchanged.

        Raises:
            UserError: see ``exchange_now``.
        """
        if self.meter is not None:
            self.meter.step()
        self.since_exchange += 1
        if self.since_exchange < self.every:
            return False
        self.exchange_now()
        return True

    @torch.no_grad()
    def exchange_now(self) -> None:
        """Exchange and take the outer step, however many inner steps there were; nothing after none. Every rank must.

        Raises:
            UserError: if a rank does not come in time, or weights are not finite. θ is then as it was.
        """
        if self.since_exchange == 0:
            return
        with self._exchanging():
            under_way = self._launch()
            for exchange in under_way:
                if exchange.work is not None:
                    exchange.work.wait()
            for name, buffer in _buffers(self.module).items():
                if name not in self.outer:
                    self._from_first(buffer)
        if not all(bool(torch.isfinite(exchange.packed).all()) for exchange in under_way):
            raise UserError(
                "Weights of at least one rank are not finite after its local steps.",
                "Lower the inner learning rate or clip gradients, and start again from the last checkpoint.",
            )
        tensors = self._tensors()
        for exchange in under_way:
            self.residual.kept |= exchange.left
            sizes = [shape.numel() for shape in exchange.shapes]
            parts = exchange.packed.split(sizes)
            for name, rows_R, shape, part in zip(exchange.names, exchange.rows, exchange.shapes, parts, strict=True):
                self._outer_step(name, part.view(shape).to(self.outer[name].dtype), rows_R)
                tensors[name].copy_(self.outer[name])
        self.since_exchange = 0

    def state_dict(self, residual: ResidualMode = "flush") -> dict[str, Any]:
        """What a checkpoint needs beside the model's weights and the inner optimizer's state; tensors on the CPU.

        Args:
            residual: ``flush`` exchanges first, so that the model's weights are θ and any number of ranks can resume:
                all ranks must call this, and one may save it. ``per_rank`` holds this rank's way since the last
                exchange: each saves its own, with its model. ``drop`` forgets that way: one rank calls and saves it,
                and the model is θ again when it is loaded.

        Raises:
            UserError: for an unknown ``residual``; see ``exchange_now``.
        """
        if residual == "flush":
            self.exchange_now()
        with self._exchanging():
            kept = self.residual.saved(residual)
        tensors = self._tensors()
        apart = [
            name for name, outer in self.outer.items() if residual != "flush" or outer.dtype != tensors[name].dtype
        ]
        return {
            "mode": residual,
            "ranks": self.ranks,
            "rank": self.rank,
            "since_exchange": self.since_exchange if residual == "per_rank" else 0,
            "outer": {name: self.outer[name].to("cpu", copy=True) for name in apart},
            "momentum_buffer": {name: v.to("cpu", copy=True) for name, v in self.momentum_buffer.items()},
            "residual": kept,
        }

    @torch.no_grad()
    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a saved state, once the model has its own weights back.

        Raises:
            UserError: for one of another model; or saved ``per_rank`` by other ranks than this.
        """
        if saved["mode"] == "per_rank" and (saved["ranks"], saved["rank"]) != (self.ranks, self.rank):
            raise UserError(
                f"The saved local steps are of rank {saved['rank']} of {saved['ranks']}, "
                f"this is rank {self.rank} of {self.ranks}.",
                "Load each rank's own, or save with residual='flush' to resume on any number of ranks.",
            )
        tensors = self._tensors()
        for name, value in [*saved["outer"].items(), *saved["momentum_buffer"].items()]:
            if name not in tensors or tensors[name].shape != value.shape:
                raise UserError(f"The saved outer weights of {name} are not of this model.", "Load the model's own.")
        self.residual.load(saved["residual"], tensors)
        for name, outer in self.outer.items():
            outer.copy_(saved["outer"].get(name, tensors[name]))
            if saved["mode"] != "per_rank":
                tensors[name].copy_(outer)
        momentum = saved["momentum_buffer"] if self.momentum else {}
        self.momentum_buffer = {name: v.to(self.outer[name], copy=True) for name, v in momentum.items()}
        self.since_exchange = int(saved["since_exchange"])

    def close(self) -> None:
        """Let the model be registered again. What was not exchanged stays each rank's own."""
        release(self.module)

    def _tensors(self) -> dict[str, Tensor]:
        """Parameters that are trained, and floating-point buffers; both may have been replaced since the start."""
        parameters = dict(self.module.named_parameters())
        found: dict[str, Tensor] = {name: parameters[name].detach() for name in self._parameters}
        return found | {name: b for name, b in _buffers(self.module).items() if b.is_floating_point()}

    def _bucketed(self) -> list[list[str]]:
        """Names whose tensors are exchanged together, in one order on all ranks."""
        buckets: list[list[str]] = []
        last, size = None, 0
        trained = set(self._parameters)
        for name, outer in self.outer.items():
            kind, more = (outer.device, outer.dtype, name in trained), outer.numel() * outer.element_size()
            if kind != last or size + more > BUCKET_BYTES:
                buckets.append([])
                size = 0
            buckets[-1].append(name)
            last, size = kind, size + more
        return buckets

    def _launch(self) -> list[_UnderWay]:
        rows = self._changed_rows()
        tensors = self._tensors()
        under_way = []
        for names in self._buckets:
            moved = []
            for name in names:
                delta, rows_R = self._displacement(name, tensors[name]), rows.get(name)
                moved.append(delta if rows_R is None else delta[rows_R])
            under_way.append(self._start(names, moved, [rows.get(name) for name in names]))
        return under_way

    def _start(self, names: list[str], moved: list[Tensor], rows: list[Tensor | None]) -> _UnderWay:
        left = {}
        if self.dtype == "bf16" and names[0] in self._parameters:
            for place, (name, rows_R) in enumerate(zip(names, rows, strict=True)):
                kept = self.residual.kept.get(name, torch.zeros_like(self.outer[name]))
                own = moved[place] + (kept if rows_R is None else kept[rows_R])
                moved[place] = (own / self.ranks).to(torch.bfloat16)
                error = own - moved[place].to(own.dtype) * self.ranks
                left[name] = error if rows_R is None else kept.index_copy(0, rows_R, error)
            packed = torch.cat([delta.reshape(-1) for delta in moved])
        else:
            packed = torch.cat([delta.reshape(-1) for delta in moved]).div_(self.ranks)
        work = self._all_reduce(packed, dist.ReduceOp.SUM) if packed.numel() else None
        return _UnderWay(names, rows, [delta.shape for delta in moved], packed, left, work)

    def _displacement(self, name: str, local: Tensor) -> Tensor:
        """θ - θ_r, exactly zero where nothing was changed, also of what is infinite, as in masks."""
        outer = self.outer[name]
        # where a rank began is θ in the parameter's own precision
        began = outer.to(local.dtype)
        return (began.to(outer.dtype) - local.to(outer.dtype)).masked_fill_(began == local, 0.0)

    def _changed_rows(self) -> dict[str, Tensor]:
        """Of parameters with sparse gradients, the rows that changed on any rank since the last exchange."""
        if not self._sparse:
            return {}
        tensors = self._tensors()
        masks = [
            self._displacement(name, tensors[name]).reshape(len(tensors[name]), -1).any(1) for name in self._sparse
        ]
        joined = torch.cat(masks).to(torch.uint8)
        self._all_reduce(joined, dist.ReduceOp.MAX).wait()
        parts = joined.split([len(mask) for mask in masks])
        return {name: part.nonzero()[:, 0] for name, part in zip(self._sparse, parts, strict=True)}

    def _outer_step(self, name: str, delta: Tensor, rows_R: Tensor | None) -> None:
        outer = self.outer[name]
        if name not in self._parameters:
            outer.sub_(delta)
        elif not self.momentum:
            _add(outer, rows_R, delta, -self.outer_lr)
        else:
            if name not in self.momentum_buffer:
                self.momentum_buffer[name] = torch.zeros_like(outer)
            v = self.momentum_buffer[name].mul_(self.momentum)
            _add(v, rows_R, delta, 1.0)
            if self.nesterov:
                _add(outer, rows_R, delta, -self.outer_lr)
            outer.sub_(v, alpha=self.outer_lr * (self.momentum if self.nesterov else 1.0))

    def _all_reduce(self, tensor: Tensor, op: Any) -> dist.Work:
        with nullcontext() if self.meter is None else self.meter.counting():
            work: dist.Work = dist.all_reduce(tensor, op, group=self.group, async_op=True)
        if self.meter is not None:
            self.meter.watch(work.get_future())
        return work

    def _from_first(self, tensor: Tensor) -> None:
        given = tensor.contiguous()
        with nullcontext() if self.meter is None else self.meter.counting():
            dist.broadcast(given, self._first, group=self.group)
        if given is not tensor:
            tensor.copy_(given)

    @contextmanager
    def _exchanging(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            if lost(error):
                raise failed(error, "The exchange of local steps") from error
            raise


def _add(target: Tensor, rows_R: Tensor | None, delta: Tensor, factor: float) -> None:
    if rows_R is None:
        target.add_(delta, alpha=factor)
    else:
        target.index_add_(0, rows_R, delta, alpha=factor)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """Those that a checkpoint holds: the others are caches, of any shape."""
    saved = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name in saved}


def _buffer_digest(model: nn.Module) -> str:
    lines = [f"{name} {list(buffer.shape)} {buffer.dtype}" for name, buffer in _buffers(model).items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _check(every: int, outer_lr: float, momentum: float, dtype: str | None) -> None:
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise UserError(f"every={every!r} is no number of local steps.", "Give a whole number of at least 1.")
    if not (math.isfinite(outer_lr) and outer_lr > 0):
        raise UserError(f"outer_lr={outer_lr!r} is no rate.", "Give a number above 0, such as 0.7.")
    if not 0.0 <= momentum < 1.0:
        raise UserError(f"momentum={momentum!r} is no momentum.", "Give a number from 0 to below 1, such as 0.9.")
    if dtype not in (None, "bf16"):
        raise UserError(f"dtype={dtype!r} is not known.", "Choose bf16, or None for the weights' own.")
