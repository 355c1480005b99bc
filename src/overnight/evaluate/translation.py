"""Held-out pairs: exact perplexity of the targets' words, and BLEU of the translations."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from overnight.data.pairs import PairCorpus, PairStream
from overnight.data.pairs.batches import gather
from overnight.data.pairs.coding import Coder
from overnight.errors import UserError
from overnight.evaluate.beam import Beam, beam_search
from overnight.evaluate.bleu import corpus_bleu
from overnight.evaluate.heldout import BlockSums
from overnight.models.seq2seq import GNMT

CALL_PAIRS = 64
"""Sentences of one call of the model."""


@dataclass(frozen=True)
class HeldOutPairs:
    """Perplexity of held-out targets.

    Attributes:
        perplexity: exp(summed nats / words), over all words of all targets, their ends among them.
        low, high: 95 % confidence interval over the sentences; NaN if there are fewer than two.
        words: how many were scored.
        seconds: wall time.
    """

    perplexity: float
    low: float
    high: float
    words: int
    seconds: float


def evaluate_pairs(model: GNMT, corpus: PairCorpus, split: str, *, autocast: torch.dtype | None = None) -> HeldOutPairs:
    """Perplexity of all targets of a split, given their sources.

    Args:
        model: it is in evaluation mode meanwhile.
        corpus, split: what is held out.
        autocast: dtype of ``torch.autocast``; None computes in the model's own.

    Raises:
        UserError: if the split has no pairs.
    """
    began = time.perf_counter()
    stream, sums, training = _some(corpus, split), BlockSums(), model.training
    device = next(model.parameters()).device
    model.eval()
    try:
        for pairs_B in _by_length(stream.target_lengths):
            batch = gather(stream, pairs_B, corpus.bos).to(device)
            with torch.no_grad(), torch.autocast(device.type, autocast, enabled=autocast is not None):
                nats_B = model.nats(batch)
            sums.add(n=batch.target_length_B.cpu(), y=nats_B.cpu())
    finally:
        model.train(training)
    perplexity, low, high = (math.inf if bits > 1000 else 2.0**bits for bits in sums.interval())
    words = int(stream.target_lengths.sum())
    return HeldOutPairs(perplexity, low, high, words, time.perf_counter() - began)


def translate(
    model: GNMT,
    sentences: Sequence[str],
    source: Coder,
    target: Coder,
    *,
    beam: Beam | None = None,
    autocast: torch.dtype | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Translations, in the order of the sentences; of an empty one an empty one.

    Marks and unknown words are never said.

    Args:
        model: it is in evaluation mode meanwhile.
        sentences: of the source's language.
        source, target: the corpus's coders.
        beam: settings of the search.
        autocast: dtype of ``torch.autocast``.
        on_progress: called with the sentences done, and all there are.
    """
    eos, bos = _mark(target.vocabulary.eos), _mark(target.vocabulary.bos)
    ids = [[*one, _mark(source.vocabulary.eos)] for one in source.encode([s.encode() for s in sentences])]
    found = [""] * len(ids)
    device, training, done = next(model.parameters()).device, model.training, 0
    model.eval()
    try:
        for rows in _by_length(np.array([len(one) for one in ids])):
            done += len(rows)
            rows = [row for row in rows.tolist() if len(ids[row]) > 1]
            if rows:
                length_B = torch.tensor([len(ids[row]) for row in rows])
                source_TB = _padded([ids[row] for row in rows])
                with torch.autocast(device.type, autocast, enabled=autocast is not None):
                    best = beam_search(
                        model,
                        source_TB.to(device),
                        length_B.to(device),
                        bos=bos,
                        eos=eos,
                        beam=beam,
                        forbidden=(bos, target.vocabulary.unk),
                    )
                for row, one in zip(rows, best, strict=True):
                    found[row] = target.decode(one.ids)
            if on_progress is not None:
                on_progress(done, len(ids))
    finally:
        model.train(training)
    return found


def translate_lines(
    model: GNMT, lines: Iterable[str], source: Coder, target: Coder, *, at_once: int = CALL_PAIRS, **settings: Any
) -> Iterator[str]:
    """Translations of lines as they come, so many at once; see ``translate``."""
    waiting = iter(lines)
    while block := list(islice(waiting, at_once)):
        yield from translate(model, block, source, target, **settings)


def heldout_pairs(
    *,
    model: GNMT,
    autocast_dtype: torch.dtype | None,
    final: bool,
    corpus: str,
    split: str = "valid",
    bleu: bool = True,
    tokenize: str = "13a",
    beam: int = 5,
    alpha: float = 0.6,
    beta: float = 0.1,
) -> dict[str, Any]:
    """Perplexity of a split, and at the end of a run its BLEU, as a line of eval.jsonl.

    Args:
        model, autocast_dtype: the trainer's.
        final: the last evaluation of the run, with BLEU.
        corpus, split: what is held out.
        bleu: whether sacrebleu is there.
        tokenize: see ``corpus_bleu``.
        beam, alpha, beta: see ``Beam``.
    """
    opened = PairCorpus(corpus)
    found = evaluate_pairs(model, opened, split, autocast=autocast_dtype)
    record: dict[str, Any] = {"split": split, "perplexity": found.perplexity, "low": found.low, "high": found.high}
    record["words"] = found.words
    if final and bleu:
        said = translate(
            model,
            opened.text(split, "source"),
            opened.coder("source"),
            opened.coder("target"),
            beam=Beam(beam, alpha, beta),
            autocast=autocast_dtype,
        )
        scored = corpus_bleu(said, opened.text(split, "target"), tokenize=tokenize)
        record |= {"bleu": scored.bleu, "bleu_signature": scored.signature}
    return record


def _some(corpus: PairCorpus, split: str) -> PairStream:
    stream = corpus.split(split)
    if not stream.pairs:
        raise UserError(f"Split {split} of {corpus.folder} is empty.", "Choose another with --split.")
    return stream


def _by_length(lengths_N: Any) -> list[Any]:
    order = np.argsort(lengths_N, kind="stable")
    return [order[start : start + CALL_PAIRS] for start in range(0, len(order), CALL_PAIRS)]


def _padded(sentences: Sequence[Sequence[int]]) -> Tensor:
    longest = max(map(len, sentences))
    return torch.tensor([[*one, *[one[-1]] * (longest - len(one))] for one in sentences]).t().contiguous()


def _mark(found: int | None) -> int:
    if found is None:
        raise ValueError("The vocabulary has no id for the beginning or the end of a sentence.")
    return found
