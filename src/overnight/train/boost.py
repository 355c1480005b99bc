"""What the trainer asks of an optimizer that searches for a better point now and then; ``overnight.optim.SEBoost`` is
one, around the run's own."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from overnight.errors import UserError
from overnight.train.build import Parts, construct
from overnight.train.components import import_path
from overnight.train.distributed import World
from overnight.train.run import Run


@dataclass(frozen=True)
class BoostBatch:
    """This rank's first micro-batch of a step, and the state of its lanes.

    Attributes:
        weight: of the summed loss, such that the mean over ranks is the mean over the targets of all.
    """

    batch: Any
    carry: Mapping[str, Tensor]
    weight: float


@dataclass(frozen=True)
class Told:
    """What a boost did, as a line of decisions.jsonl."""

    found: Any

    def to_json(self) -> dict[str, Any]:
        """The boost's own fields, under ``numbers``."""
        found = self.found
        seconds = {"second_before": found.second_before, "second_after": found.second_after}
        cost = {"gradients": found.gradients, "forwards": found.forwards, "products": found.products}
        return {
            "step": found.step,
            "what": "boost",
            "old": found.loss_before,
            "new": found.loss_after if found.accepted else found.loss_before,
            "why": found.reason or "the loss fell",
            "numbers": {"coefficients": list(found.coefficients), "tried": found.loss_after, **seconds, **cost},
        }

    def __str__(self) -> str:
        found = self.found
        if found.loss_before is None or found.loss_after is None:
            return f"boost {found.outer}: stayed, {found.reason}"
        ends = f"loss {found.loss_before:.4f} → {found.loss_after:.4f}"
        if found.second_before is not None and found.second_after is not None:
            ends += f", of another batch {found.second_before:.4f} → {found.second_after:.4f}"
        return f"boost {found.outer}: {ends}" + ("" if found.accepted else f"; stayed, {found.reason}")


def with_boost(run: Run, parts: Parts, world: World) -> Parts:
    """The parts, their optimizer inside ``run.boost``: it is given the task, and its mean loss on a ``BoostBatch``.

    The task is called as it is, without DDP: a boost exchanges a few numbers, and gradients go through no hook.

    Raises:
        UserError: for settings that it does not accept, and with fp16, whose loss scale a boost's losses do not have.
    """
    if run.boost is None:
        return parts
    dtype = parts.precision.dtype
    if dtype == torch.float16:
        raise UserError("The losses of a boost have no loss scale.", "Take --precision bf16 or fp32.")

    def loss(given: BoostBatch) -> Tensor:
        with nullcontext() if dtype is None else torch.autocast(world.device.type, dtype=dtype):
            found = parts.task(given.batch, given.carry)
        total: Tensor = found.total if found.objective is None else found.objective
        return total * given.weight

    # a rule is a component of its own inside this one
    rules = {name: value() for name, value in run.boost.keywords.items() if isinstance(value, partial)}
    group = dist.group.WORLD if world.world_size > 1 else None
    given = {"base": parts.optimizer, "model": parts.task, "loss": loss, "process_group": group}
    made = construct("boost", partial(run.boost, **rules), **given)
    if not isinstance(made, torch.optim.Optimizer) or not callable(getattr(made, "boost", None)):
        raise UserError(f"{import_path(run.boost.func)} does not boost.", "Set --set boost=overnight.optim.SEBoost.")
    return replace(parts, optimizer=made)


def check_ranks(run: Run, synchronous: bool) -> None:
    """Raise a UserError for a boost of ranks that have weights of their own for some steps."""
    if run.boost is not None and not synchronous:
        raise UserError(
            "A boost needs the same weights on every rank at every step, which --parallel local and async do not keep.",
            "Take --parallel ddp or sampled, or leave out boost.",
        )


def boost(optimizer: Any, batch: BoostBatch, second: BoostBatch) -> Told:
    """Search on a batch; the second says whether to believe it."""
    return Told(optimizer.boost(batch, second))


def boost_batch(task: Any, batch: Any, carry: Mapping[str, Tensor], world: World) -> BoostBatch:
    """A micro-batch, weighted; a collective.

    Args:
        task: counts targets.
        batch: on the device.
        carry: of this rank's lanes, of which the first are those of the batch.
        world: the ranks.
    """
    return BoostBatch(batch, carry, world.world_size / max(1, world.sum(task.count(batch))))
