"""Branches of a run at k times its batch: k successive batches make one update, so lanes and their order stay."""

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from overnight.scaling.critical_batch import Branch, CriticalBatch, Fork, branches, probe_critical_batch
from overnight.train.build import Parts
from overnight.train.run import Run

HELD_OUT_STEPS = 4
LONGEST = 3.0


class Brancher:
    """Trains and evaluates from one state, on one device, at any multiple of the baseline's batch.

    A larger batch of a recurrent net's lanes would also be shorter lanes, another order of the data. Here k batches of
    the same lanes follow one another with the state carried on, and their gradients are added up: only the number of
    samples in an update differs. The loss to reach is that of the last batches of an epoch that no branch comes to;
    where data have one order for all epochs, branches that pass the end of one have all read them alike.

    Args:
        run, parts: the baseline.
        step: position in the data at the fork.
        carry: state of the lanes there.
        device: where.
    """

    def __init__(self, run: Run, parts: Parts, step: int, carry: dict[str, Tensor], device: torch.device) -> None:
        self.run, self.parts, self.step, self.device = run, parts, step, device
        self.start = {name: tensor.clone() for name, tensor in carry.items()}
        self.carry = self.start
        self.held_out = self._last_before(step)

    def _last_before(self, reach: int) -> list[int]:
        """The last batches of the first epoch that ends beyond a position, and theirs."""
        epoch = max(1, int(self.parts.data.steps_per_epoch))
        last = epoch * (1 + (reach + HELD_OUT_STEPS) // epoch)
        return [last - 1 - index for index in range(HELD_OUT_STEPS)]

    def probe(self, steps: int, factors: tuple[int, ...] = (1, 2, 4, 8), longest: float = LONGEST) -> CriticalBatch:
        """The critical batch, from branches of ``steps`` updates at the baseline's batch and more at larger ones.

        Raises:
            UserError: if the loss does not fall, or no branch reaches it.
        """
        batch = self.run.global_batch_size
        self.held_out = self._last_before(self.step + math.ceil(longest * steps) + max(factors))
        branch = branches(
            Fork(self.parts.task, self.parts.optimizer),
            self.parts.optimizer,
            self.update,
            self.evaluate,
            global_batch_size=batch,
            evaluate_every=batch * max(1, steps // 16),
        )

        def started(k: int) -> Any:
            self.carry = self.start
            return branch(k)

        found: Branch = started
        samples = float(batch * steps)
        return probe_critical_batch(found, global_batch_size=batch, samples=samples, factors=factors, longest=longest)

    def update(self, samples: int, seen: float) -> None:
        """One update on so many samples, a multiple of the batch, from a position after the fork."""
        batch, task = self.run.global_batch_size, self.parts.task
        first = self.step + round(seen / batch)
        batches = [self.parts.data.at(first + i, 0, batch).to(self.device) for i in range(round(samples / batch))]
        count = max(1, sum(task.count(one) for one in batches))
        for one in batches:
            with self._autocast():
                loss = task(one, self.carry)
            ((loss.total if loss.objective is None else loss.objective) / count).backward()
            self.carry = dict(loss.carry)
        parameters = [p for group in self.parts.optimizer.param_groups for p in group["params"]]
        if self.run.max_norm is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.run.max_norm)
        self.parts.optimizer.step()
        self.parts.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def evaluate(self) -> float:
        """Mean nats a target."""
        task = self.parts.task
        task.eval()
        try:
            totals, counts = [], 0
            for step in self.held_out:
                batch = self.parts.data.at(step, 0, self.run.global_batch_size).to(self.device)
                with self._autocast():
                    loss = task(batch, task.initial_carry(self.run.global_batch_size))
                totals.append(loss.total.float())
                counts += loss.count
            return float(torch.stack(totals).sum()) / max(1, counts)
        finally:
            task.train()

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = self.parts.precision.dtype
        return nullcontext() if dtype is None else torch.autocast(self.device.type, dtype=dtype)
