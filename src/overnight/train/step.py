"""One optimizer update: micro-batches, autocast, loss scaling, clipping, and the skip of non-finite steps."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from overnight.comm.checks import meeting
from overnight.comm.strategy import Strategy
from overnight.optim.trust_ratio import local
from overnight.train.distributed import World
from overnight.train.observe import StepObserver
from overnight.train.parallel import Maker, Parallel
from overnight.train.precision import Precision


@dataclass(frozen=True)
class StepResult:
    """What one step gave; tensors stay on the device until they are read.

    Attributes:
        total: this rank's summed loss in nats.
        count: this rank's targets.
        global_count: those of all ranks; where ranks train alone for some steps, this rank's.
        grad_norm: global L2 norm of what is clipped, before clipping and after unscaling.
        skipped: the update was not made, since the loss or a gradient was not finite.
        carry: state of this rank's lanes after the step.
    """

    total: Tensor
    count: int
    global_count: int
    grad_norm: Tensor
    skipped: bool
    carry: dict[str, Tensor]


class Stepper:
    """Makes optimizer updates. Holds the task, how its ranks train together, and the loss scaler.

    Losses are sums: each micro-batch's total is multiplied by world_size / count over all ranks and micro-batches, so
    that DDP's mean over ranks is the gradient of one process reading the whole batch, however uneven the counts.
    Ranks that train alone for some steps each take the mean over their own targets.

    Args:
        task, optimizer, world, precision, max_norm: the parts.
        make: of how ranks train together; None is DDP where there are several.

    Attributes:
        observer: looks on; None for none, which costs nothing.
    """

    observer: StepObserver | None = None

    def __init__(
        self,
        task: Any,
        optimizer: torch.optim.Optimizer,
        world: World,
        precision: Precision,
        max_norm: float | None,
        make: Maker | None = None,
    ) -> None:
        self.task, self.optimizer, self.world = task, optimizer, world
        self.precision, self.max_norm = precision, max_norm
        self.scaler: torch.amp.GradScaler | None = None
        if precision.dtype == torch.float16:
            # Puri et al. doubled after 1,000 clean steps; their start, 2^32, overflows any float16 loss at once.
            self.scaler = torch.amp.GradScaler(world.device.type, init_scale=2.0**16, growth_interval=1000)
        if make is not None:
            scale = self.scaler.get_scale if self.scaler is not None else None
            self.parallel: Parallel = make(module=task, optimizer=optimizer, loss_scale=scale)
        elif world.world_size > 1:
            with meeting():
                self.parallel = Strategy(DistributedDataParallel(task, gradient_as_bucket_view=True))
        else:
            self.parallel = Strategy(task)
        self.wrapped: nn.Module = self.parallel.module
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        # a group may be left out of clipping: the reference code of big LSTMs clips the recurrent weights only;
        # an optimizer's own option of that name (LARS's, for LARC) says nothing of it
        said = "clip" not in optimizer.defaults
        groups = [group for group in optimizer.param_groups if not said or group.get("clip", True)]
        self.clipped = [p for group in groups for p in group["params"]]

    def settle(self, batch: Any, carry: Mapping[str, Tensor]) -> None:
        """Let DDP arrange its buckets before the first step, by a backward whose gradient is thrown away.

        It does so after the first backward of a process, in the order in which gradients come. A resumed run would
        otherwise make one step with other buckets, and three or more ranks then add up in another order.
        """
        if self.world.world_size < 3 or not self.parallel.synchronous or self.parallel.sharded:
            return
        kept = [buffer.clone() for buffer in self.task.buffers()]
        devices = [self.world.device] if self.world.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            with self._autocast():
                total = self.wrapped(batch, carry).total
            total.backward()
        if self.observer is not None:
            self.observer.discard()
        self.optimizer.zero_grad(set_to_none=True)
        for buffer, before in zip(self.task.buffers(), kept, strict=True):
            buffer.copy_(before)
        self.parallel.forget()

    def close(self) -> None:
        """Give up DDP while its process group is still there.

        A reducer that outlives ``destroy_process_group`` ends the group itself, and waits with Python's lock held for a
        gloo thread that may want it: with torch 2.13, two of the first five runs on two ranks hung so at their end.
        """
        self.wrapped = self.task
        self.parallel.close()
        self.parallel = Strategy(self.task)

    def __call__(self, batches: list[Any], carry: Mapping[str, Tensor]) -> StepResult:
        """Train on this rank's micro-batches, in lane order."""
        count = sum(self.task.count(batch) for batch in batches)
        if self.parallel.synchronous:
            global_count = self.world.sum(count)
            weight = self.world.world_size / global_count
        else:
            global_count, weight = count, 1.0 / max(1, count)
        totals, carries, lane = [], [], 0
        for index, batch in enumerate(batches):
            lanes = _lanes(carry) // len(batches)
            part = {name: tensor[lane : lane + lanes] for name, tensor in carry.items()}
            lane += lanes
            # DDP decides at the forward whether this backward communicates, so no_sync wraps both.
            alone = index < len(batches) - 1
            with self.parallel.no_sync() if alone else nullcontext(), self._autocast():
                loss = self.wrapped(batch, part)
                scaled = (loss.total if loss.objective is None else loss.objective) * weight
                if self.scaler is not None:
                    scaled = self.scaler.scale(scaled)
                with torch.autocast(self.world.device.type, enabled=False):
                    scaled.backward()
            totals.append(loss.total.detach())
            carries.append(loss.carry)
        total = torch.stack(totals).sum()
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)
        norm, everything = self._norms()
        skipped = not self._all_finite(total, everything)
        if self.observer is not None:
            scale = self.scaler.get_scale() if self.scaler is not None else 1.0
            self.observer.gradients(norm, loss_scale=scale, skipped=skipped)
        if not skipped and self.max_norm is not None:
            factor = torch.clamp(self.max_norm / (norm + 1e-6), max=1.0)
            torch._foreach_mul_(_gradients(self.clipped), factor)
        if self.scaler is not None:
            if not skipped:
                with self._looked_at():
                    self.scaler.step(self.optimizer)
            self.scaler.update()  # halves after an overflow that unscale_ saw, doubles after 1,000 clean steps
        elif not skipped:
            with self._looked_at():
                self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if skipped:
            self.parallel.skipped()
        self.parallel.after_update()
        joined = {name: torch.cat([part[name] for part in carries]) for name in carries[0]}
        if skipped:
            joined = {name: _finite_lanes(tensor) for name, tensor in joined.items()}
        return StepResult(total, count, global_count, norm, skipped, joined)

    def _norms(self) -> tuple[Tensor, Tensor]:
        """The norm of the gradients that are clipped, and that of all."""
        norm = self._norm(self.clipped)
        if len(self.clipped) == len(self.parameters):
            return norm, norm
        return norm, self._norm(self.parameters)

    def _norm(self, parameters: Sequence[Tensor]) -> Tensor:
        norm = torch.nn.utils.get_total_norm(_gradients(parameters))
        if not self.parallel.sharded:
            return norm
        squares = self.world.all_reduce(norm.to(self.world.device, torch.float64).square())
        return squares.sqrt().to(norm.dtype)

    def _looked_at(self) -> AbstractContextManager[None]:
        return nullcontext() if self.observer is None else self.observer.around()

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision.dtype is None:
            return nullcontext()
        return torch.autocast(self.world.device.type, dtype=self.precision.dtype)

    def _all_finite(self, total: Tensor, norm: Tensor) -> bool:
        finite = torch.isfinite(total) & torch.isfinite(norm)
        if not self.parallel.synchronous:
            return bool(finite.item())
        # every rank takes the same decision, though each sees only its own loss
        return bool(self.world.all_reduce(finite.float(), dist.ReduceOp.MIN).item())


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The gradients' memory here, to be measured and scaled in place; of those that hold some rows only, these rows."""
    dense = []
    for parameter in parameters:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
            dense.append(parameter.grad.values())
        elif parameter.grad is not None:
            dense.append(local(parameter.grad))
    return dense


def _lanes(carry: Mapping[str, Tensor]) -> int:
    return next(iter(carry.values())).shape[0] if carry else 0


def _finite_lanes(tensor: Tensor) -> Tensor:
    """Zero the lanes whose state is no longer finite, so that one bad step does not spoil the next."""
    bad = ~torch.isfinite(tensor).flatten(1).all(1)
    return tensor.masked_fill(bad.view(-1, *[1] * (tensor.dim() - 1)), 0.0)
