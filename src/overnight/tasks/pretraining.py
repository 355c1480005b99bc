"""Pre-train BERT: guess hidden word pieces, and tell whether two segments belong together."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from overnight.errors import UserError
from overnight.tasks.loss import Loss


class PretrainingTask(nn.Module):
    """Cross-entropy of the hidden word pieces, summed, plus w times that of the segments, summed.

    BERT's loss is the mean over what is hidden plus the mean over sequences. The trainer divides both sums by one
    count, that of the hidden pieces, so w is how many of them a sequence has on average; as it does not depend on the
    batch, micro-batches and ranks add up to the gradient of the whole. What is logged is the loss of the hidden pieces.

    Args:
        model: ``nats(batch) → (of hidden pieces [M], of sequences [S])`` (``overnight.models.bert.BERT``).
        next_sentence: w; 0 trains on hidden pieces alone.

    Raises:
        UserError: for a negative w.
    """

    metric = "masked_accuracy"

    def __init__(self, model: nn.Module, *, next_sentence: float = 0.0) -> None:
        super().__init__()
        if not next_sentence >= 0.0:
            raise UserError(f"next_sentence={next_sentence} cannot be.", "Take 0 for none, or more.")
        self.model: Any = model
        self.next_sentence = next_sentence

    def initial_carry(self, lanes: int) -> dict[str, Tensor]:
        return {}

    def count(self, batch: Any) -> int:
        targets: int = batch.targets
        return targets

    def forward(self, batch: Any, carry: Mapping[str, Tensor]) -> Loss:
        nats_M, nats_S = self.model.nats(batch)
        total = nats_M.sum()
        # with w = 0 too, so that every parameter has a gradient, which DDP asks for
        return Loss(total, self.count(batch), {}, total + self.next_sentence * nats_S.sum())
