"""What a task returns: a sum and a count, so that micro-batches and ranks of any size add up to one gradient."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """The loss of one micro-batch.

    Attributes:
        total: summed loss in nats, with its graph.
        count: how many targets it sums over.
        carry: recurrent state after the micro-batch, lanes first; empty for models without.
        objective: what is differentiated in the place of ``total`` where that is something else (a penalty added, a
            sum over time in the place of a mean): summed over the same count. It is not logged.
    """

    total: Tensor
    count: int
    carry: Mapping[str, Tensor] = field(default_factory=dict)
    objective: Tensor | None = None


class Task(Protocol):
    """What the trainer asks of a task; tasks are ``nn.Module`` s that hold their model as ``model``.

    ``metric`` is a name in ``overnight.metrics.METRICS``: what losses are told as. A task without is told in bits per
    byte.
    """

    model: Any

    def initial_carry(self, lanes: int) -> dict[str, Tensor]:
        """State of so many lanes before the first step; empty for models without."""

    def count(self, batch: Any) -> int:
        """How many targets a batch has, known on the host."""

    def __call__(self, batch: Any, carry: Mapping[str, Tensor]) -> Loss:
        """The loss of a micro-batch, given the state of its lanes."""
