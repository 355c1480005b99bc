"""Predict the next byte (or token) of every lane, with the state carried from step to step."""

from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from overnight.tasks.loss import Loss


class LanguageModelTask(nn.Module):
    """Cross-entropy of the next token, summed over all positions, in float32.

    Args:
        model: ``(ids_TB, carry, reset_TB) → (logits_TBV, carry)`` with ``initial_carry(lanes)``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def initial_carry(self, lanes: int) -> dict[str, Tensor]:
        carry: dict[str, Tensor] = self.model.initial_carry(lanes)
        return carry

    def count(self, batch: Any) -> int:
        targets: int = batch.target_TB.numel()
        return targets

    def forward(self, batch: Any, carry: Mapping[str, Tensor]) -> Loss:
        logits_TBV, carry = self.model(batch.input_TB, carry, batch.reset_TB)
        total = F.cross_entropy(logits_TBV.float().flatten(0, 1), batch.target_TB.flatten(), reduction="sum")
        return Loss(total, self.count(batch), {name: part.detach() for name, part in carry.items()})
