"""Accuracy of BERT on held-out text: of hidden word pieces, and of segments that belong together."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from overnight.data.masked import MaskedCorpus
from overnight.data.masked.batches import MaskedBatches, check_sentences
from overnight.data.masked.drawing import Masking
from overnight.evaluate.images import wilson_interval

CALL_ROWS = 32
"""Rows of one call of the model."""
SEED = 0
COUNTED = 10_000_000
"""Ids of the training split that say which word piece is the most frequent."""


@dataclass(frozen=True)
class HeldOutMasked:
    """What was guessed of held-out text.

    Attributes:
        masked_accuracy: share of the hidden word pieces whose logit is the largest, 0 to 1.
        low, high: its 95 % confidence interval (Wilson 1927), which takes the pieces for independent.
        loss: their mean cross-entropy in nats.
        next_sentence_accuracy, next_sentence_loss: of the segments; NaN where sequences have one.
        pieces: so many were hidden.
        sequences: in how many.
        seconds: wall time.
    """

    masked_accuracy: float
    low: float
    high: float
    loss: float
    next_sentence_accuracy: float
    next_sentence_loss: float
    pieces: int
    sequences: int
    seconds: float


@torch.no_grad()
def evaluate_masked(
    model: nn.Module,
    batches: MaskedBatches,
    *,
    rows: int | None = None,
    autocast: torch.dtype | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> HeldOutMasked:
    """Guess what is hidden in one epoch of batches, or in its first rows.

    Args:
        model: ``(batch) → logits [M, V], [S, 2]``; it is in evaluation mode meanwhile.
        batches: of the split; their seed decides what is hidden.
        rows: at most so many; None for all.
        autocast: dtype of ``torch.autocast``; None computes in the model's own.
        on_progress: called with the rows done, and all there are.
    """
    began, device = time.perf_counter(), next(model.parameters()).device
    rows = batches.rows if rows is None else min(rows, batches.rows)
    sums = torch.zeros(4, dtype=torch.float64)
    masked = sequences = 0
    training = model.training
    model.eval()
    try:
        for first in range(0, rows, CALL_ROWS):
            count = min(CALL_ROWS, rows - first)
            # one batch of all rows, a share of it at a time
            batch = batches.at(0, first, count).to(device)
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                words_MV, segments_S2 = model(batch)
            parts = [
                *_sums(words_MV.float(), batch.target_M),
                *_sums(segments_S2.float(), batch.swapped_S),
            ]
            sums += torch.stack([part.double().cpu() for part in parts])
            masked += batch.targets
            sequences += len(batch.first_S)
            if on_progress is not None:
                on_progress(first + count, rows)
    finally:
        model.train(training)
    right, nats, told, apart = sums.tolist()
    low, high = wilson_interval(int(right), masked)
    pairs = sequences if batches.masking.next_sentence else 0
    return HeldOutMasked(
        right / masked,
        low,
        high,
        nats / masked,
        told / pairs if pairs else float("nan"),
        apart / pairs if pairs else float("nan"),
        masked,
        sequences,
        time.perf_counter() - began,
    )


def _sums(logits_NK: torch.Tensor, target_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    nats = nn.functional.cross_entropy(logits_NK, target_N, reduction="sum")
    return (logits_NK.argmax(1) == target_N).sum(), nats


def heldout_batches(
    corpus: str | MaskedCorpus,
    split: str,
    *,
    length: int,
    share: float = 0.15,
    whole_words: bool = False,
    next_sentence: bool = True,
) -> MaskedBatches:
    """The rows of a held-out split, what is hidden in them always the same.

    Raises:
        UserError: if the split is empty.
    """
    opened = MaskedCorpus(corpus) if isinstance(corpus, str) else corpus
    check_sentences(opened, next_sentence)
    masking = Masking(share=share, whole_words=whole_words, short=0.0, next_sentence=next_sentence)
    return MaskedBatches(opened.split(split), opened.pieces, CALL_ROWS, length=length, seed=SEED, masking=masking)


def heldout_masked(
    *,
    model: nn.Module,
    autocast_dtype: torch.dtype | None,
    final: bool,
    corpus: str,
    split: str = "valid",
    length: int = 128,
    rows: int = 1000,
    share: float = 0.15,
    whole_words: bool = False,
    next_sentence: bool = True,
) -> dict[str, Any]:
    """Accuracy on a split, as a line of eval.jsonl; the last evaluation of a run is over all its rows.

    Args:
        model, autocast_dtype, final: the trainer's.
        corpus, split, length: what is held out.
        rows: so many of an evaluation during the run.
        share, whole_words, next_sentence: see ``Masking``.
    """
    batches = heldout_batches(
        corpus, split, length=length, share=share, whole_words=whole_words, next_sentence=next_sentence
    )
    found = evaluate_masked(model, batches, rows=None if final else rows, autocast=autocast_dtype)
    record = {"split": split, **vars(found)}
    del record["seconds"]
    return record if next_sentence else {name: value for name, value in record.items() if value == value}


def masked_baselines(
    *,
    corpus: str,
    split: str = "valid",
    length: int = 128,
    rows: int = 10_000,
    share: float = 0.15,
    whole_words: bool = False,
    next_sentence: bool = True,
) -> list[dict[str, Any]]:
    """The accuracy of guessing always the word piece that is the most frequent one in training.

    Args:
        corpus, split, length, share, whole_words, next_sentence: as ``heldout_masked`` takes them.
        rows: so many of the split at most.
    """
    opened = MaskedCorpus(corpus)
    batches = heldout_batches(
        opened, split, length=length, share=share, whole_words=whole_words, next_sentence=next_sentence
    )
    stream = opened.split("train")
    counts = np.bincount(stream.read(0, min(COUNTED, len(stream))), minlength=opened.vocab_size)
    common = opened.pieces.ordinary[counts[opened.pieces.ordinary].argmax()]
    right = hidden = 0
    for first in range(0, min(rows, batches.rows), CALL_ROWS):
        target_M = batches.at(0, first, min(CALL_ROWS, batches.rows - first)).target_M
        right += int((target_M == common).sum())
        hidden += len(target_M)
    return [{"name": f"the most frequent word piece, {opened.pieces.words[common]}", "masked_accuracy": right / hidden}]
