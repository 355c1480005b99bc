"""The two older neural language models: feed-forward (Bengio et al. 2003) and plainly recurrent (Mikolov et al. 2010).

They are what "Fast Parallel Training of Neural Language Models" (Xiao et al. 2017) trains, whose sizes are not public.

Shape suffixes: T time, B lanes, C words of context, E embedding width, H units, N width of what the output reads.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.models.word_model import Carry, WordModel, output_layer
from overnight.nn.rows import SampledEmbedding

ACTIVATIONS = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu}


class FeedForwardLM(WordModel):
    """The next word from the C words before it (Bengio et al. 2003, JMLR 3:1137, equation 1):

        x = (e(w_{t-1}), …, e(w_{t-C}));   y = b + W x + U tanh(d + H x)

    W, the direct connections, are there with ``direct``. Before the start of a text, and of a document where the state
    is reset there, stands the word ``pad``.

    Args:
        vocab_size: V.
        embedding_size: E (m in the paper).
        hidden_size: H.
        context: C = n - 1.
        direct: connect x to the output too.
        pad: the word that fills contexts; of a corpus its ``fill``.
        dropout: on what the output layer reads.
        output, sparse, sampler, counts, certain, per_step, seed, init_range: see ``overnight.models.word_lm.WordLM``.

    Raises:
        UserError: if a size is less than 1, or ``pad`` is no word.

    >>> model = FeedForwardLM(100, 8, 16, context=3)
    >>> log_p, carry = model(torch.zeros(5, 2, dtype=torch.long))
    >>> log_p.shape, carry["words"].shape
    (torch.Size([5, 2, 100]), torch.Size([2, 2]))
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_size: int,
        hidden_size: int,
        *,
        context: int = 4,
        direct: bool = False,
        pad: int = 0,
        dropout: float = 0.0,
        output: str = "full",
        sparse: bool = False,
        sampler: str = "log-uniform",
        counts: str | None = None,
        certain: str = "batch",
        per_step: bool = False,
        seed: int = 0,
        init_range: float | None = None,
    ) -> None:
        super().__init__()
        _at_least_one(embedding_size=embedding_size, hidden_size=hidden_size, context=context)
        if not 0 <= pad < vocab_size:
            raise UserError(f"pad={pad} is no word of {vocab_size:,}.", f"It must be from 0 to {vocab_size - 1}.")
        self.context, self.direct, self.pad, self.dropout = context, direct, pad, dropout
        self.embedding = SampledEmbedding(vocab_size, embedding_size, sparse=sparse)
        nn.init.normal_(self.embedding.weight, std=embedding_size**-0.5)
        self.input = nn.Linear(context * embedding_size, hidden_size)
        width = hidden_size + (context * embedding_size if direct else 0)
        self.output = output_layer(
            output,
            width,
            vocab_size,
            sampler=sampler,
            counts=counts,
            certain=certain,
            per_step=per_step,
            seed=seed,
            sparse=sparse,
        )
        _fill(self, init_range)

    def initial_carry(self, lanes: int) -> dict[str, Tensor]:
        """``words`` [B, C - 1]: the words before the next one, oldest first."""
        device = self.embedding.weight.device
        return {"words": torch.full((lanes, self.context - 1), self.pad, dtype=torch.int64, device=device)}

    def hidden(
        self, ids_TB: Tensor, carry: Carry | None = None, reset_TB: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Words → what the output layer reads, and the last words as the new carry."""
        if carry is None:
            carry = self.initial_carry(ids_TB.shape[1])
        time, back = len(ids_TB), self.context - 1
        # document numbers: a word of another document than the newest is no context
        number_TB = torch.zeros_like(ids_TB) if reset_TB is None else reset_TB.long().cumsum(0)
        words = torch.cat([carry["words"].t(), ids_TB])
        numbers = torch.cat([number_TB.new_zeros(back, ids_TB.shape[1]), number_TB])
        seen = []
        for ago in range(self.context):
            here = slice(back - ago, back - ago + time)
            seen.append(words[here].masked_fill(numbers[here] != number_TB, self.pad))
        x_TBD = self.embedding(torch.stack(seen, -1)).flatten(2)
        h_TBH = torch.tanh(self.input(x_TBD))
        h_TBN = torch.cat([h_TBH, x_TBD.to(h_TBH.dtype)], -1) if self.direct else h_TBH
        kept = words.masked_fill(numbers != number_TB[-1], self.pad)[len(words) - back :] if time else words
        return F.dropout(h_TBN, self.dropout, self.training), {"words": kept.t().contiguous()}


class RecurrentLM(WordModel):
    """A plain recurrent network, h_t = f(W e(w_t) + U h_{t-1} + b) (Elman 1990; Mikolov et al. 2010).

    Args:
        vocab_size: V.
        embedding_size: E.
        hidden_size: H.
        activation: ``tanh``, ``sigmoid`` (Mikolov's) or ``relu``.
        dropout: on the embedding and on what the output layer reads.
        output, tied, sparse, sampler, counts, certain, per_step, seed, init_range: see
            ``overnight.models.word_lm.WordLM``.

    Raises:
        UserError: if a size is less than 1 or the activation is not known.

    >>> model = RecurrentLM(100, 8, 16)
    >>> log_p, carry = model(torch.zeros(5, 2, dtype=torch.long))
    >>> log_p.shape, carry["h"].shape
    (torch.Size([5, 2, 100]), torch.Size([2, 16]))
    """

    def __init__(
        self,
        vocab_size: int,
        embedding_size: int,
        hidden_size: int,
        *,
        activation: str = "tanh",
        dropout: float = 0.0,
        output: str = "full",
        tied: bool = False,
        sparse: bool = False,
        sampler: str = "log-uniform",
        counts: str | None = None,
        certain: str = "batch",
        per_step: bool = False,
        seed: int = 0,
        init_range: float | None = None,
    ) -> None:
        super().__init__()
        _at_least_one(embedding_size=embedding_size, hidden_size=hidden_size)
        if activation not in ACTIVATIONS:
            raise UserError(f"{activation!r} is not an activation.", f"Choose one of {', '.join(ACTIVATIONS)}.")
        self.hidden_size, self.dropout, self.activation = hidden_size, dropout, activation
        self.embedding = SampledEmbedding(vocab_size, embedding_size, sparse=sparse)
        nn.init.normal_(self.embedding.weight, std=embedding_size**-0.5)
        self.input = nn.Linear(embedding_size, hidden_size)
        self.recurrent = nn.Linear(hidden_size, hidden_size, bias=False)
        self.output = output_layer(
            output,
            hidden_size,
            vocab_size,
            weight=self.embedding.weight if tied else None,
            sampler=sampler,
            counts=counts,
            certain=certain,
            per_step=per_step,
            seed=seed,
            sparse=sparse,
        )
        _fill(self, init_range)

    def initial_carry(self, lanes: int) -> dict[str, Tensor]:
        """``h`` [B, H], zero."""
        return {"h": torch.zeros(lanes, self.hidden_size, device=self.embedding.weight.device)}

    def hidden(
        self, ids_TB: Tensor, carry: Carry | None = None, reset_TB: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Words → h [T, B, H], with the output's dropout, and the new carry."""
        if carry is None:
            carry = self.initial_carry(ids_TB.shape[1])
        x_TBE = F.dropout(self.embedding(ids_TB), self.dropout, self.training)
        activate = ACTIVATIONS[self.activation]
        p_TBH = self.input(x_TBE)
        h_BH = carry["h"].to(p_TBH.dtype)
        resets = [None] * len(ids_TB) if reset_TB is None else reset_TB.unsqueeze(2).unbind(0)
        outputs = []
        # unbind, not p_TBH[t]: the backward of each select would allocate a zero tensor of the whole sequence
        for p_BH, reset_B1 in zip(p_TBH.unbind(0), resets, strict=True):
            # filled and not multiplied: a NaN of the last text would outlive a product with 0
            h_BH = activate(p_BH + self.recurrent(h_BH if reset_B1 is None else h_BH.masked_fill(reset_B1, 0)))
            outputs.append(h_BH)
        h_TBH = torch.stack(outputs) if outputs else p_TBH
        return F.dropout(h_TBH, self.dropout, self.training), {"h": h_BH.float()}


def _at_least_one(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise UserError(f"A language model cannot have {name}={size}.", f"{name} must be at least 1.")


def _fill(model: nn.Module, init_range: float | None) -> None:
    if init_range is not None:
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -init_range, init_range)
