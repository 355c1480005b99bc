"""What every word model is: a body that gives h for each position, and an output layer over the vocabulary.

Shape suffixes: T time, B lanes, N width of h, V vocabulary.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.softmax import NCE, AdaptiveSoftmax, FullSoftmax, LogUniform, Output, SampledSoftmax, Sampler, Unigram

Carry = Mapping[str, Tensor]
OUTPUTS = "full, sampled:N, nce:N or adaptive:C1,C2,…"
SAMPLERS = ("log-uniform", "unigram")


class WordModel(nn.Module):
    """A language model of words. Subclasses own the body and implement ``hidden`` and ``initial_carry``.

    Attributes:
        output: the output layer (``overnight.nn.softmax``); its ``vocab_size`` is the model's.
    """

    output: Output

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.output.vocab_size

    def initial_carry(self, lanes: int) -> dict[str, Tensor]:
        """The state before the first word, lanes first."""
        raise NotImplementedError

    def hidden(
        self, ids_TB: Tensor, carry: Carry | None = None, reset_TB: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Words → what the output layer reads, [T, B, N], and the new carry."""
        raise NotImplementedError

    def loss(
        self, ids_TB: Tensor, target_TB: Tensor, carry: Carry | None = None, reset_TB: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The output layer's summed loss in nats (what is trained in training mode, exact otherwise), and the carry."""
        h_TBN, carry = self.hidden(ids_TB, carry, reset_TB)
        total: Tensor = self.output(h_TBN, target_TB)
        return total, dict(carry)

    def nats(
        self, ids_TB: Tensor, target_TB: Tensor, carry: Carry | None = None, reset_TB: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """-log p of each target, exact, [T, B] in float32 or wider, and the carry; few words' logits at a time."""
        h_TBN, carry = self.hidden(ids_TB, carry, reset_TB)
        return self.output.nats(h_TBN.flatten(0, 1), target_TB.flatten()).view_as(target_TB), dict(carry)

    def forward(
        self, ids_TB: Tensor, carry: Carry | None = None, reset_TB: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Words [T, B] → exact log-probabilities [T, B, V] of the word after each, and the new carry: for few words."""
        h_TBN, carry = self.hidden(ids_TB, carry, reset_TB)
        log_p_NV = self.output.log_prob(h_TBN.flatten(0, 1))
        return log_p_NV.unflatten(0, h_TBN.shape[:2]), dict(carry)


def output_layer(
    spec: str,
    hidden_size: int,
    vocab_size: int,
    *,
    weight: nn.Parameter | None = None,
    sampler: str = "log-uniform",
    counts: str | None = None,
    certain: str = "batch",
    per_step: bool = False,
    sparse: bool = False,
    seed: int = 0,
) -> Output:
    """An output layer by name.

    Args:
        spec: ``full``, ``sampled:8192`` (drawn words), ``nce:25``, ``adaptive:2000,10000`` (cutoffs).
        hidden_size, vocab_size: N and V.
        weight: a parameter [V, N] to share (tied).
        sampler: ``log-uniform`` or ``unigram``, of ``sampled`` and ``nce``.
        counts: corpus folder whose word counts ``unigram`` draws by.
        certain, per_step, sparse, seed: see ``overnight.nn.softmax.SampledSoftmax``.

    Raises:
        UserError: for a spec or sampler that is not understood, and whatever the layer refuses.

    >>> output_layer("sampled:20", 8, 100)
    SampledSoftmax(8, 100, bias=True, samples=20, sampler=LogUniform)
    """
    kind, _, text = spec.partition(":")
    try:
        numbers = [int(part) for part in text.split(",")] if text else []
    except ValueError:
        numbers = []
        kind = ""
    if kind == "full" and not text:
        return FullSoftmax(hidden_size, vocab_size, weight=weight)
    if kind == "adaptive" and numbers:
        return AdaptiveSoftmax(hidden_size, vocab_size, cutoffs=numbers, weight=weight)
    if kind not in ("sampled", "nce") or len(numbers) != 1:
        raise UserError(f"{spec!r} is not an output layer.", f"Write {OUTPUTS}.")
    options: dict[str, Any] = {"samples": numbers[0], "sampler": _sampler(sampler, vocab_size, counts), "seed": seed}
    options |= {"weight": weight, "per_step": per_step, "sparse": sparse}
    if kind == "nce":
        return NCE(hidden_size, vocab_size, **options)
    return SampledSoftmax(hidden_size, vocab_size, certain=certain, **options)  # type: ignore[arg-type]


def _sampler(name: str, vocab_size: int, counts: str | None) -> Sampler:
    if name == "log-uniform":
        return LogUniform(vocab_size)
    if name != "unigram":
        raise UserError(f"{name!r} is not a sampler.", f"Choose one of {', '.join(SAMPLERS)}.")
    if counts is None:
        raise UserError("The unigram sampler needs the words' counts.", "Give counts=, a corpus folder.")
    if not (Path(counts) / "manifest.json").is_file():
        return _Moved(vocab_size, counts)  # the exact softmax needs no counts, so a model can be used without them
    from overnight.data.words.corpus import WordCorpus

    return Unigram(torch.as_tensor(WordCorpus.open(Path(counts)).counts))


class _Moved(LogUniform):
    """Stands for the counts of a corpus that is no longer there, until it is trained with."""

    def __init__(self, vocab_size: int, folder: str) -> None:
        super().__init__(vocab_size)
        self._folder = folder

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Refuse."""
        raise UserError(
            f"The unigram sampler's counts are those of {self._folder}, which is not there.",
            "Say where the corpus is: --set model.counts=DIR.",
        )
