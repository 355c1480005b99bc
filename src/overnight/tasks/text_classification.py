"""Name the class of every text: cross-entropy."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from overnight.tasks.loss import Loss


class TextClassificationTask(nn.Module):
    """Cross-entropy of the class, summed over texts, in float32.

    Args:
        model: ``TextBatch`` → logits [B, C].
    """

    metric = "text_accuracy"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def initial_carry(self, lanes: int) -> dict[str, Tensor]:
        return {}

    def count(self, batch: Any) -> int:
        return len(batch.label_B)

    def forward(self, batch: Any, carry: Mapping[str, Tensor]) -> Loss:
        total = F.cross_entropy(self.model(batch).float(), batch.label_B, reduction="sum")
        return Loss(total, self.count(batch))
