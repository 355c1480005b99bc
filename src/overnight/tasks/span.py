"""Mark where the answer to a question stands: cross-entropy of its first and last place."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from overnight.tasks.loss import Loss


class SpanTask(nn.Module):
    """(cross-entropy of the first place + of the last) / 2, summed over windows, in float32.

    Args:
        model: ``SpanBatch`` → logits [B, T] of the first place, and of the last.
    """

    metric = "f1"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def initial_carry(self, lanes: int) -> dict[str, Tensor]:
        return {}

    def count(self, batch: Any) -> int:
        return len(batch.span_B2)

    def forward(self, batch: Any, carry: Mapping[str, Tensor]) -> Loss:
        first_BT, last_BT = self.model(batch)
        first, last = batch.span_B2.unbind(1)
        total = F.cross_entropy(first_BT.float(), first, reduction="sum")
        total = total + F.cross_entropy(last_BT.float(), last, reduction="sum")
        return Loss(total / 2, self.count(batch))
