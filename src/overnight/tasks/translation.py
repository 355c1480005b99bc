"""Translate sentences: the label-smoothed loss of the target's words, told as the perplexity of the plain one."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from overnight.errors import UserError
from overnight.tasks.loss import Loss


class TranslationTask(nn.Module):
    """Summed over the words of all targets of a batch, their ends among them; padding has no part in it.

    Args:
        model: ``loss(batch, smoothing) → (summed nats, summed smoothed loss)`` (``overnight.models.seq2seq.GNMT``).
        smoothing: share of the target's probability that all words have evenly; 0 for none.

    Raises:
        UserError: for a share that is not in [0, 1).
    """

    metric = "perplexity"

    def __init__(self, model: nn.Module, *, smoothing: float = 0.1) -> None:
        super().__init__()
        if not 0.0 <= smoothing < 1.0:
            raise UserError(f"smoothing={smoothing} cannot be.", "Choose from 0 to below 1.")
        self.model: Any = model
        self.smoothing = smoothing

    def initial_carry(self, lanes: int) -> dict[str, Tensor]:
        return {}

    def count(self, batch: Any) -> int:
        targets: int = batch.targets
        return targets

    def forward(self, batch: Any, carry: Mapping[str, Tensor]) -> Loss:
        total, objective = self.model.loss(batch, self.smoothing)
        return Loss(total, self.count(batch), {}, objective)
