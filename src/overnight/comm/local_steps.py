"""Local steps (DiLoCo): ranks train alone for H steps, then meet at an outer step along their mean displacement."""

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from overnight.comm import checks
from overnight.comm.displacements import Displacements, Moved
from overnight.comm.meter import Meter
from overnight.comm.residual import ResidualMode
from overnight.comm.sampled import SampledParallel
from overnight.errors import UserError


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
        members = dist.get_process_group_ranks(checks.ranks_group(process_group))
        timeout = checks.timeout_of(timeout_seconds)
        digests = {
            "model": checks.model_digest(model),
            "model's buffers": _buffer_digest(model),
            "outer step": f"{every} {outer_lr} {momentum} {nesterov} {dtype}",
            "data": data,
            "torch": torch.__version__,
        }
        with checks.meeting():
            checks.same_everywhere("local steps", digests, dist.new_group(members, timeout, "gloo"))
            self.group = dist.new_group(members, timeout)
        checks.take(model)
        self.module, self.meter = model, meter
        self.every, self.outer_lr, self.momentum, self.nesterov = every, outer_lr, momentum, nesterov
        self._trained = [name for name, p in model.named_parameters() if p.requires_grad]
        try:
            with checks.meeting(), torch.no_grad():
                for tensor in [*(p.detach() for p in model.parameters()), *_buffers(model).values()]:
                    self._take_from_first(tensor)
        except BaseException:
            self.close()
            raise
        self.outer = {name: tensor.to(_wide(tensor), copy=True) for name, tensor in self._local().items()}
        self.momentum_buffer: dict[str, Tensor] = {}
        self.since_exchange = 0
        rounded = self._trained if dtype == "bf16" else []
        sparse = list(checks.sparse_parameters(model))
        self._displacements = Displacements(self.group, self.outer, sparse=sparse, rounded=rounded, meter=meter)

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
        with _exchanging():
            for name, buffer in _buffers(self.module).items():
                if name not in self.outer:
                    with nullcontext() if self.meter is None else self.meter.counting():
                        self._take_from_first(buffer)
            local = self._local()
            moved = self._displacements.mean(local)
        for each in moved:
            self._outer_step(each)
            local[each.name].copy_(self.outer[each.name])
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
        with _exchanging():
            rounding = self._displacements.residual.saved(residual)
        local = self._local()
        apart = [name for name, outer in self.outer.items() if residual != "flush" or outer.dtype != local[name].dtype]
        return {
            "mode": residual,
            "ranks": self.group.size(),
            "rank": self.group.rank(),
            "since_exchange": self.since_exchange if residual == "per_rank" else 0,
            "outer": {name: self.outer[name].to("cpu", copy=True) for name in apart},
            "momentum_buffer": {name: v.to("cpu", copy=True) for name, v in self.momentum_buffer.items()},
            "residual": rounding,
        }

    @torch.no_grad()
    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a saved state, once the model has its own weights back.

        Raises:
            UserError: for one of another model; or saved ``per_rank`` by other ranks than this.
        """
        ranks, rank = self.group.size(), self.group.rank()
        if saved["mode"] == "per_rank" and (saved["ranks"], saved["rank"]) != (ranks, rank):
            raise UserError(
                f"The saved local steps are of rank {saved['rank']} of {saved['ranks']}, this is rank {rank} of "
                f"{ranks}.",
                "Load each rank's own, or save with residual='flush' to resume on any number of ranks.",
            )
        local = self._local()
        for name, value in [*saved["outer"].items(), *saved["momentum_buffer"].items()]:
            if name not in local or local[name].shape != value.shape:
                raise UserError(f"The saved outer weights of {name} are not of this model.", "Load the model's own.")
        self._displacements.residual.load(saved["residual"], local)
        for name, outer in self.outer.items():
            outer.copy_(saved["outer"].get(name, local[name]))
            if saved["mode"] != "per_rank":
                local[name].copy_(outer)
        momentum = saved["momentum_buffer"] if self.momentum else {}
        self.momentum_buffer = {name: v.to(self.outer[name], copy=True) for name, v in momentum.items()}
        self.since_exchange = int(saved["since_exchange"])

    def close(self) -> None:
        """Let the model be registered again. What was not exchanged stays each rank's own."""
        checks.release(self.module)

    def _local(self) -> dict[str, Tensor]:
        """θ_r: parameters that are trained, and floating-point buffers, which modules may have replaced by now."""
        parameters = dict(self.module.named_parameters())
        found: dict[str, Tensor] = {name: parameters[name].detach() for name in self._trained}
        return found | {name: b for name, b in _buffers(self.module).items() if b.is_floating_point()}

    def _outer_step(self, moved: Moved) -> None:
        outer = self.outer[moved.name]
        if moved.name not in self._trained:
            outer.sub_(moved.delta)
        elif not self.momentum:
            _add(outer, moved, -self.outer_lr)
        else:
            if moved.name not in self.momentum_buffer:
                self.momentum_buffer[moved.name] = torch.zeros_like(outer)
            v = self.momentum_buffer[moved.name].mul_(self.momentum)
            _add(v, moved, 1.0)
            if self.nesterov:
                _add(outer, moved, -self.outer_lr)
            outer.sub_(v, alpha=self.outer_lr * (self.momentum if self.nesterov else 1.0))

    def _take_from_first(self, tensor: Tensor) -> None:
        given = tensor.contiguous()
        dist.broadcast(given, group=self.group, group_src=0)
        if given is not tensor:
            tensor.copy_(given)


def _add(target: Tensor, moved: Moved, factor: float) -> None:
    if moved.rows_R is None:
        target.add_(moved.delta, alpha=factor)
    else:
        target.index_add_(0, moved.rows_R, moved.delta, alpha=factor)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype


def _buffers(model: nn.Module) -> dict[str, Tensor]:
    """Those that a checkpoint holds: the others are caches, of any shape."""
    saved = model.state_dict(keep_vars=True)
    return {name: buffer for name, buffer in model.named_buffers() if name in saved}


def _buffer_digest(model: nn.Module) -> str:
    lines = [f"{name} {list(buffer.shape)} {buffer.dtype}" for name, buffer in _buffers(model).items()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextmanager
def _exchanging() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if checks.lost(error):
            raise checks.failed(error, "The exchange of local steps") from error
        raise


def _check(every: int, outer_lr: float, momentum: float, dtype: str | None) -> None:
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise UserError(f"every={every!r} is no number of local steps.", "Give a whole number of at least 1.")
    if not (math.isfinite(outer_lr) and outer_lr > 0):
        raise UserError(f"outer_lr={outer_lr!r} is no rate.", "Give a number above 0, such as 0.7.")
    if not 0.0 <= momentum < 1.0:
        raise UserError(f"momentum={momentum!r} is no momentum.", "Give a number from 0 to below 1, such as 0.9.")
    if dtype not in (None, "bf16"):
        raise UserError(f"dtype={dtype!r} is not known.", "Choose bf16, or None for the weights' own.")
