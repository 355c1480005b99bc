"""BERT that marks where an answer stands: Hugging Face's, with its scaled-dot-product attention.

Shape suffixes: T places, B windows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from overnight.models.bert import check_length, configuration, transformers


class BERTSpan(nn.Module):
    """BERT with a layer of two logits a place: the answer's first word piece, and its last (Devlin et al., 4.2).

    Args:
        vocab_size, hidden_size, num_layers, num_heads, intermediate_size, max_position, dropout: as of
            ``overnight.models.bert.BERT``.

    Raises:
        UserError: as ``BERT``, and in a call for windows longer than the positions.

    Attributes:
        network: Hugging Face's ``BertForQuestionAnswering``.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        hidden_size: int = 128,
        num_layers: int = 2,
        num_heads: int = 2,
        intermediate_size: int | None = None,
        max_position: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        settings = configuration(
            vocab_size, hidden_size, num_layers, num_heads, intermediate_size, max_position, dropout
        )
        self.network: Any = transformers().BertForQuestionAnswering(settings)

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Logits [B, T] of the first and of the last place, in float32; -inf at padding."""
        check_length(batch.input_BT.shape[1], int(self.network.config.max_position_embeddings))
        found = self.network(input_ids=batch.input_BT, attention_mask=batch.mask_BT, token_type_ids=batch.type_BT)
        nothing = float("-inf")
        first_BT = found.start_logits.float().masked_fill(~batch.mask_BT, nothing)
        return first_BT, found.end_logits.float().masked_fill(~batch.mask_BT, nothing)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and configuration as ``transformers`` reads them with ``from_pretrained``."""
        self.network.save_pretrained(folder)
