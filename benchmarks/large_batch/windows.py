"""The control with the number of lanes fixed: k windows of every lane in one update, instead of k times the lanes."""

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import add
from typing import Any

from torch import Tensor, nn

from overnight.data.lanes import LaneBatch
from overnight.errors import UserError
from overnight.tasks.loss import Loss
from overnight.tasks.word_model import WordModelTask


class WindowedWordTask(WordModelTask):
    """A word model's task on several consecutive windows of each lane, with the state cut between them.

    So the gradient is the mean of those of so many steps at the same weights: a batch by accumulation over time, in
    which text is read in the order of the base batch.

    Args:
        model, reduction, frobenius_decay: as of ``WordModelTask``; a sum over time is that of one window.
        windows: of a batch.
    """

    def __init__(self, model: nn.Module, *, windows: int, **settings: Any) -> None:
        super().__init__(model, **settings)
        self.windows = windows

    def forward(self, batch: Any, carry: Mapping[str, Tensor]) -> Loss:
        length, rest = divmod(len(batch.input_TB), self.windows)
        if rest:
            raise UserError(
                f"{len(batch.input_TB)} words a lane are no {self.windows} windows of the same length.",
                "Take a length that is a multiple of the windows.",
            )
        losses = []
        for first in range(0, length * self.windows, length):
            part = slice(first, first + length)
            window = LaneBatch(batch.input_TB[part], batch.target_TB[part], batch.reset_TB[part])
            losses.append(super().forward(window, carry))
            carry = losses[-1].carry
        # Loss.carry is detached, so no gradient crosses from window to window
        return Loss(
            _sum(loss.total for loss in losses),
            sum(loss.count for loss in losses),
            carry,
            _sum(loss.total if loss.objective is None else loss.objective for loss in losses),
        )


def _sum(tensors: Iterable[Tensor]) -> Tensor:
    return reduce(add, tensors)
