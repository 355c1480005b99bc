"""GNMT: a residual LSTM encoder-decoder with additive attention (Wu et al. 2016, arXiv 1609.08144; v2).

Shape suffixes: T source steps, U target steps, B sentences, E embedding width, H units, V target words.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.models.gnmt_decoder import GNMTDecoder, State
from overnight.models.gnmt_encoder import GNMTEncoder
from overnight.nn.attention import Memory
from overnight.nn.recurrence import Path
from overnight.nn.softmax import FullSoftmax


class GNMT(nn.Module):
    """Sentences in one language in, distributions over the words of the other out.

    The published model (``vocab_sizes=(32320, 32320)``, 4 + 4 layers of 1024, shared embeddings) has 160,634,433
    parameters with this package's one bias a gate: 160,671,297 with the two of ``nn.LSTM``.

    Args:
        source_vocab_size, target_vocab_size: of the two vocabularies.
        hidden_size: H; embeddings are as wide.
        encoder_layers, decoder_layers: at least 2; the encoder's first, of both directions, counts as one.
        dropout: probability, on the input of every recurrent layer.
        shared: one embedding for both languages; they must have one vocabulary.
        init_range: every parameter starts in U(-a, a), but for the attention's gain and bias.
        attention_gain: where the attention's gain starts; None is 1/√H, as published.
        path: see ``overnight.nn.recurrence.Recurrent``.

    Raises:
        UserError: for sizes below 1, fewer than 2 layers, a probability that is none, or a shared embedding of two
            vocabularies.

    >>> model = GNMT(50, 40, hidden_size=8, encoder_layers=2, decoder_layers=2)
    >>> memory = model.encode(torch.zeros(5, 3, dtype=torch.long), torch.tensor([5, 2, 1]))
    >>> h, state, weights = model.decode(torch.zeros(4, 3, dtype=torch.long), memory)
    >>> h.shape, weights.shape, model.output.log_prob(h.flatten(0, 1)).shape
    (torch.Size([4, 3, 8]), torch.Size([4, 3, 5]), torch.Size([12, 40]))
    """

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        *,
        hidden_size: int = 1024,
        encoder_layers: int = 4,
        decoder_layers: int = 4,
        dropout: float = 0.2,
        shared: bool = False,
        init_range: float = 0.1,
        attention_gain: float | None = None,
        path: Path = "auto",
    ) -> None:
        super().__init__()
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"dropout={dropout} is not a probability below 1.", "Choose from 0 to below 1.")
        if shared and source_vocab_size != target_vocab_size:
            raise UserError(
                f"An embedding cannot be shared by {source_vocab_size:,} words and {target_vocab_size:,} words.",
                "Prepare the corpus with --joint, or take shared=False.",
            )
        layers: dict[str, Any] = {"dropout": dropout, "path": path}
        self.source_embedding = nn.Embedding(source_vocab_size, hidden_size)
        self.target_embedding = self.source_embedding if shared else nn.Embedding(target_vocab_size, hidden_size)
        self.encoder = GNMTEncoder(hidden_size, hidden_size, encoder_layers, **layers)
        layers |= {"init_range": init_range, "attention_gain": attention_gain}
        self.decoder = GNMTDecoder(hidden_size, hidden_size, decoder_layers, **layers)
        self.output = FullSoftmax(hidden_size, target_vocab_size)
        kept = {id(self.decoder.attention.gain), id(self.decoder.attention.bias)}
        for parameter in self.parameters():
            if id(parameter) not in kept:
                nn.init.uniform_(parameter, -init_range, init_range)

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.output.vocab_size

    def encode(self, source_TB: Tensor, length_B: Tensor) -> Memory:
        """Sources, padded at their ends → what the decoder attends to."""
        h_TBH = self.encoder(self.source_embedding(source_TB), length_B)
        return self.decoder.attention.memory(h_TBH, length_B)

    def decode(
        self, input_UB: Tensor, memory: Memory, state: Sequence[State] | None = None
    ) -> tuple[Tensor, tuple[State, ...], Tensor]:
        """Words so far → what the output layer reads [U, B, H], the state after them, the attention's weights."""
        h_UBH, last, weights_UBT = self.decoder(self.target_embedding(input_UB), memory, state)
        return h_UBH, last, weights_UBT

    def loss(self, batch: Any, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
        """The summed negative log-likelihood of a batch's targets in nats, and the label-smoothed loss.

            smoothed = Σ_n (1 - s) (-log p_n(t_n)) + s Σ_v -log p_n(v) / V   (Szegedy et al. 2016, arXiv 1512.00567)

        With logits z this is  Σ_n -log p_n(t_n) + s (z_n(t_n) - mean_v z_n(v)),  which needs no logits but those of the
        targets and one product with the mean of the output's rows.

        Args:
            batch: a ``overnight.data.pairs.PairBatch``.
            smoothing: s.
        """
        memory = self.encode(batch.source_TB, batch.source_length_B)
        h_UBH, _, _ = self.decode(batch.input_UB, memory)
        steps_U1 = torch.arange(len(batch.target_UB), device=h_UBH.device).unsqueeze(1)
        real_UB = steps_U1 < batch.target_length_B
        h_NH, target_N = h_UBH[real_UB], batch.target_UB[real_UB]
        nats: Tensor = self.output(h_NH, target_N)
        if not smoothing:
            return nats, nats
        weight_VH, bias_V = self.output.weight, self.output.bias
        spread_NH = F.embedding(target_N, weight_VH) - weight_VH.mean(0)
        gap = (h_NH.to(spread_NH.dtype) * spread_NH).sum()
        if bias_V is not None:
            gap = gap + (bias_V[target_N] - bias_V.mean()).sum()
        return nats, nats + smoothing * gap

    def nats(self, batch: Any) -> Tensor:
        """-log p of each pair's target, summed over its words, [B] in float32 or wider."""
        memory = self.encode(batch.source_TB, batch.source_length_B)
        h_UBH, _, _ = self.decode(batch.input_UB, memory)
        nats_UB = self.output.nats(h_UBH.flatten(0, 1), batch.target_UB.flatten()).view_as(batch.target_UB)
        steps_U1 = torch.arange(len(nats_UB), device=nats_UB.device).unsqueeze(1)
        return nats_UB.masked_fill(steps_U1 >= batch.target_length_B, 0.0).sum(0)
