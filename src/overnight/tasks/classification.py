"""Name the class of every image: cross-entropy, with label smoothing or without."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.tasks.loss import Loss


class ClassificationTask(nn.Module):
    """Cross-entropy of the class, summed over images, in float32.

    With label smoothing ε (Szegedy et al. 2016, arXiv 1512.00567) what is differentiated is the cross-entropy with
    (1 - ε) one-hot + ε / K; the loss that is logged is the one without, so that runs can be compared.

    Args:
        model: image → logits [B, K].
        label_smoothing: ε.

    Raises:
        UserError: unless ``label_smoothing`` is from 0 to below 1.
    """

    metric = "accuracy"

    def __init__(self, model: nn.Module, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise UserError(f"label_smoothing={label_smoothing} cannot be.", "Take 0 for none, to below 1.")
        self.model: Any = model
        self.label_smoothing = label_smoothing

    def initial_carry(self, lanes: int) -> dict[str, Tensor]:
        return {}

    def count(self, batch: Any) -> int:
        return len(batch.label_B)

    def forward(self, batch: Any, carry: Mapping[str, Tensor]) -> Loss:
        logits_BK = self.model(batch.image_BHW).float()
        total = F.cross_entropy(logits_BK, batch.label_B, reduction="sum")
        objective = None
        if self.label_smoothing:
            smoothing = self.label_smoothing
            objective = F.cross_entropy(logits_BK, batch.label_B, reduction="sum", label_smoothing=smoothing)
            total = total.detach()
        return Loss(total, self.count(batch), {}, objective)
