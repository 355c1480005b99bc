"""What every rank of an asynchronous run does: pull, compute its share of the batch, push."""

import hashlib
import json
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from overnight.comm.asynchronous import Answer, AsyncWorker
from overnight.train.build import Parts
from overnight.train.components import to_json
from overnight.train.distributed import World
from overnight.train.run import Run
from overnight.train.step import Stepper


class Held(torch.optim.Optimizer):
    """Leaves gradients where they are: they are the server's optimizer's to use."""

    def __init__(self, params: Iterable[Tensor]) -> None:
        super().__init__(list(params), {})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing."""

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing: pushing frees them."""


class Share:
    """A rank's share of every batch, at this rank's pace.

    Args:
        worker: come to the server.
        task: this rank's copy.
        parts: data, precision and plan of batches.
        rank: of this process.
        carry: of this rank's lanes.
        step: position of the lanes in the data.
    """

    def __init__(
        self, worker: AsyncWorker, task: Any, parts: Parts, rank: int, device: torch.device, carry: Any, step: int
    ) -> None:
        self.worker, self.data, self.device, self.carry, self.step = worker, parts.data, device, carry, step
        self.lanes = parts.plan.lanes(rank)
        held = Held(p for p in task.parameters() if p.requires_grad)
        self.stepper = Stepper(task, held, World(0, 1, device), parts.precision, None)

    def __call__(self) -> Answer:
        """One gradient. One that the server refuses since it is too old is left to the next call."""
        self.worker.pull()
        batches = [self.data.at(self.step, first, count).to(self.device) for first, count in self.lanes]
        result = self.stepper(batches, self.carry)
        answer = self.worker.push(loss=float(result.total), count=result.count, finite=not result.skipped)
        if answer.taken:
            self.carry = result.carry
            self.step += 1
        return answer


def identities(run: Run, parts: Parts, world_size: int) -> dict[str, Any]:
    """What server and workers compare: see ``ParameterServer``."""
    settings = [to_json(run.parallel), run.global_batch_size, run.seed, world_size]
    also = {"settings": json.dumps(settings), "precision": parts.precision.name}
    digests = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in also.items()}
    return {"data": str(getattr(parts.data, "digest", "")), "also": digests}
