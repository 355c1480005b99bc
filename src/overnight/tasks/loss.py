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
    """

    total: Tensor
    count: int
    carry: Mapping[str, Tensor] = field(default_factory=dict)


class Task(Protocol):
    """What the trainer asks of a task; tasks are ``nn.Module`` s that hold their model as ``model``."""

    model: Any

    def initial_carry(self, lanes: int) -> dict[str, Tensor]:
        """State of so many lanes before the first step; empty for models without."""

    def count(self, batch: Any) -> int:
        """How many targets a batch has, known on the host."""

    def __call__(self, batch: Any, carry: Mapping[str, Tensor]) -> Loss:
        """The loss of a micro-batch, given the state of its lanes."""
