"""BERT (Devlin et al. 2019, arXiv 1810.04805): Hugging Face's model, with its scaled-dot-product attention.

Shape suffixes: T places, B rows, H hidden, M word pieces to be guessed, S sequences, V vocabulary, C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.errors import UserError


class BERT(nn.Module):
    """BERT with its two heads: which word piece stood there, and whether the second segment is from elsewhere.

    Only what is to be guessed is projected to the vocabulary, since 85 % of the places are not. Rows may hold several
    sequences, which do not see each other.

    Args:
        vocab_size: V, word pieces.
        hidden_size: H.
        num_layers: transformer blocks.
        num_heads: of attention; they share H evenly.
        intermediate_size: of the feed-forward layers; 4 H unless given.
        max_position: longest sequence.
        dropout: of hidden states and attention.
        recompute: keep no activations inside the blocks and compute them again in the backward: less memory, more time.

    Raises:
        UserError: if ``transformers`` is not installed, or the sizes do not fit together.

    Attributes:
        network: Hugging Face's ``BertForPreTraining``.
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
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.settings = configuration(
            vocab_size, hidden_size, num_layers, num_heads, intermediate_size, max_position, dropout
        )
        self.network: Any = transformers().BertForPreTraining(self.settings)
        if recompute:
            self.network.activation_checkpointing_enable({"use_reentrant": False})

    @property
    def max_position(self) -> int:
        """Longest sequence."""
        return int(self.settings.max_position_embeddings)

    def hidden(self, batch: Any) -> Tensor:
        """The last layer's hidden states [B, T, H] of a ``MaskedBatch``."""
        check_length(batch.position_BT.shape[1] if not batch.packed else 0, self.max_position)
        return encode(self.network.bert, batch)

    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Logits [M, V] of what is to be guessed, and [S, 2] of the segments (1: from elsewhere)."""
        hidden_NH = self.hidden(batch).flatten(0, 1)
        heads = self.network.cls
        pooled_SH = self.network.bert.pooler(hidden_NH[batch.first_S].unsqueeze(1))
        return heads.predictions(hidden_NH[batch.masked_M]), heads.seq_relationship(pooled_SH)

    def nats(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The cross-entropies [M] and [S], in float32."""
        words_MV, segments_S2 = self(batch)
        return (
            F.cross_entropy(words_MV.float(), batch.target_M, reduction="none"),
            F.cross_entropy(segments_S2.float(), batch.swapped_S, reduction="none"),
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and configuration as ``transformers`` reads them with ``from_pretrained``."""
        self.network.save_pretrained(folder)


class BERTClassifier(nn.Module):
    """BERT with a layer over its pooled ``[CLS]``: text → logits [B, C].

    Args:
        vocab_size, hidden_size, num_layers, num_heads, intermediate_size, max_position, dropout: as of ``BERT``.
        classes: C.

    Raises:
        UserError: as ``BERT``.

    Attributes:
        network: Hugging Face's ``BertForSequenceClassification``.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        classes: int = 2,
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
        settings.num_labels = classes
        self.network: Any = transformers().BertForSequenceClassification(settings)

    def forward(self, batch: Any) -> Tensor:
        """Logits [B, C] of a ``TextBatch``."""
        check_length(batch.input_BT.shape[1], int(self.network.config.max_position_embeddings))
        found = self.network(input_ids=batch.input_BT, attention_mask=batch.mask_BT)
        logits_BC: Tensor = found.logits
        return logits_BC

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and configuration as ``transformers`` reads them with ``from_pretrained``."""
        self.network.save_pretrained(folder)


def encode(bert: Any, batch: Any) -> Tensor:
    """The last hidden states [B, T, H] of Hugging Face's ``BertModel``.

    Args:
        bert: with or without its pooler, which is not used.
        batch: a ``MaskedBatch``.
    """
    sequence_BT = batch.sequence_BT
    mask = sequence_BT > 0
    if batch.packed:
        # padding sees padding, since a place that sees nothing would be NaN, and spread
        mask = (sequence_BT[:, None, :, None] == sequence_BT[:, None, None, :]).to(torch.bool)
    found = bert(
        input_ids=batch.input_BT,
        attention_mask=mask,
        token_type_ids=batch.type_BT,
        position_ids=batch.position_BT,
    )
    hidden_BTH: Tensor = found.last_hidden_state
    return hidden_BTH


def configuration(
    vocab_size: int,
    hidden_size: int,
    num_layers: int,
    num_heads: int,
    intermediate_size: int | None,
    max_position: int,
    dropout: float,
) -> Any:
    """Hugging Face's ``BertConfig``.

    Raises:
        UserError: ``transformers`` is missing, or the heads do not share the width evenly.
    """
    if num_heads < 1 or hidden_size % num_heads:
        raise UserError(f"{num_heads} heads cannot share {hidden_size} units evenly.", "Take a divisor.")
    if not 0.0 <= dropout < 1.0:
        raise UserError(f"dropout={dropout} cannot be.", "Choose from 0 to below 1.")
    return transformers().BertConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        intermediate_size=4 * hidden_size if intermediate_size is None else intermediate_size,
        max_position_embeddings=max_position,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        attn_implementation="sdpa",
    )


def check_length(length: int, max_position: int) -> None:
    """Raise UserError if a sequence is longer than the model has positions."""
    if length > max_position:
        raise UserError(
            f"A sequence of {length} word pieces is longer than the {max_position} positions of the model.",
            f"Take --length {max_position} or less.",
        )


def transformers() -> Any:
    """The package.

    Raises:
        UserError: it is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise UserError("BERT needs the package transformers.", "Install it: pip install 'overnight[bert]'") from None
    return transformers
