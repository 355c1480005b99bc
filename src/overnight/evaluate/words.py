"""Exact perplexity of held-out words, whatever output layer was trained.

The policy: every word of the split is scored once, ends of sentences (``eos``) among them where the corpus has such,
each from all words before it; the first from ``eos`` alone (uniformly, log V, where there is none). What fills the
context before a sentence (``bos``) is no word and not scored. Perplexity = exp(summed nats / words).

Shape suffixes: T time, B lanes.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from overnight.data.words.corpus import WordCorpus, WordStream
from overnight.errors import UserError
from overnight.evaluate.scoring import Dynamic, Scorer, block_sums, dynamic_scorer, static_scorer
from overnight.evaluate.windows import HeldOutWindows, Window
from overnight.models.word_model import WordModel

BLOCK_WORDS = 2000
"""Words of one block of the confidence interval: long beside the reach of what makes neighbouring words alike."""
CALL_WORDS = 2048
"""Words of one call of the model, over all lanes."""


@dataclass(frozen=True)
class HeldOutWords:
    """Perplexity of held-out words.

    Attributes:
        perplexity: exact, over all words.
        low, high: 95 % confidence interval over the text; NaN if there are fewer than two blocks.
        words: how many were scored, ends of sentences among them.
        seconds: wall time.
        lanes: that were read side by side.
    """

    perplexity: float
    low: float
    high: float
    words: int
    seconds: float
    lanes: int


def evaluate_words(
    model: nn.Module,
    stream: WordStream,
    *,
    eos: int | None,
    vocab_size: int,
    lanes: int = 16,
    reset: str = "never",
    warm_up: int = 128,
    autocast: torch.dtype | None = None,
    dynamic: Dynamic | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> HeldOutWords:
    """Perplexity of a whole stream; every word is scored exactly once (the policy: top of this module).

    One lane is plain sequential reading; more are faster, and differ by what the model still knows of words that lie
    more than ``warm_up`` before the start of a lane.

    Args:
        model: a ``WordModel``; it is in evaluation mode meanwhile, so that its output layer is exact.
        stream: usually ``WordCorpus(folder).split("test")``.
        eos, vocab_size: of the corpus.
        lanes: B; fewer where a lane would be shorter than a block of the interval.
        reset: zero the state at a ``shard`` or ``sentence``, or ``never``; as in training.
        warm_up: words that a lane reads before its own, without scoring them.
        autocast: dtype of ``torch.autocast``; None computes in the model's own.
        dynamic: let the model adapt to the words that it has been scored on; 1 lane is the published order.
        on_progress: called with the words scored, and all there are.

    Raises:
        UserError: if the stream is empty or a setting is out of its range.
    """
    began = time.perf_counter()
    if lanes > 1:
        lanes = max(1, min(lanes, len(stream) // BLOCK_WORDS))
    length = dynamic.length if dynamic is not None else max(1, CALL_WORDS // max(lanes, 1))
    windows = WordWindows(stream, eos, lanes=lanes, length=length, reset=reset, warm_up=0 if lanes == 1 else warm_up)
    device = next(model.parameters()).device
    done = 0

    def scored(count: int) -> None:
        nonlocal done
        done += count
        if on_progress is not None:
            on_progress(done, len(stream))

    opening = math.log(vocab_size) if eos is None else None

    def summed(score: Scorer) -> tuple[float, float, float]:
        return block_sums(windows, score, BLOCK_WORDS, opening_nats=opening, on_scored=scored).interval()

    training = model.training
    model.eval()
    try:
        if dynamic is None:
            bits = summed(static_scorer(model, device, autocast))
        else:
            with dynamic_scorer(model, device, lr=dynamic.lr, decay=dynamic.decay, autocast=autocast) as score:
                bits = summed(score)
    finally:
        model.train(training)
    perplexity, low, high = (math.inf if value > 1000 else 2.0**value for value in bits)
    return HeldOutWords(perplexity, low, high, len(stream), time.perf_counter() - began, lanes)


class WordWindows(HeldOutWindows):
    """Windows of words: the word before the first is ``eos``, read from a zero state.

    Args:
        stream, lanes, length, reset, warm_up: see ``HeldOutWindows``.
        eos: of the corpus; None leaves the opening to be scored otherwise.
    """

    def __init__(self, stream: WordStream, eos: int | None, *, reset: str = "never", **settings: Any) -> None:
        super().__init__(stream, reset=reset, **settings)
        self._eos = eos
        # a word's sentence begins with the eos before it, so it is there that the state is zero
        self._resets = np.unique(np.append(stream.resets(reset), len(stream) - 1))

    def __iter__(self) -> Iterator[Window]:
        for window in super().__iter__():
            if self._eos is None or not window.opening_TB.any():
                yield window
            else:
                yield replace(window, input_TB=window.input_TB.masked_fill(window.opening_TB, self._eos))


def heldout_words(
    *,
    model: nn.Module,
    autocast_dtype: torch.dtype | None,
    final: bool,
    corpus: str,
    split: str = "valid",
    eval_words: int = 250_000,
    final_words: int = 5_000_000,
    lanes: int = 16,
    reset: str = "never",
) -> dict[str, Any]:
    """Perplexity of the head of a split, as a line of eval.jsonl.

    Args:
        model, autocast_dtype: the trainer's.
        final: the last evaluation of the run, on ``final_words`` instead of ``eval_words``.
        corpus, split: what is held out.
        eval_words, final_words: how much of it.
        lanes, reset: how it is read (see ``evaluate_words``).
    """
    opened = WordCorpus(corpus)
    stream = opened.split(split)
    stream = stream.head(min(len(stream), final_words if final else eval_words))
    found = evaluate_words(
        model,
        stream,
        eos=opened.eos,
        vocab_size=opened.vocab_size,
        lanes=lanes,
        reset=reset,
        autocast=autocast_dtype,
    )
    return {
        "split": split,
        "perplexity": found.perplexity,
        "low": found.low,
        "high": found.high,
        "words": found.words,
    }


def word_baselines(*, corpus: str, split: str = "valid", final_words: int = 5_000_000) -> list[dict[str, Any]]:
    """The perplexity of the words' own frequencies in the training split, each count one higher (add-one)."""
    opened = WordCorpus(corpus)
    stream = opened.split(split)
    counts = opened.counts.astype(np.float64) + 1.0
    held_out = stream.head(min(len(stream), final_words)).counts(opened.vocab_size)
    nats = -(held_out * np.log(counts / counts.sum())).sum() / held_out.sum()
    return [{"name": "unigram", "perplexity": math.exp(nats)}]


@dataclass(frozen=True)
class LoadedWords:
    """A word model on its device, in evaluation mode; and where it comes from."""

    model: WordModel
    device: torch.device
    run: Mapping[str, Any]
    step: int
    corpus: Path | None

    def open(self, folder: Path | None) -> WordCorpus:
        """The corpus in ``folder``, or the run's own; of the vocabulary that the model was trained with.

        Raises:
            UserError: if there is none, or it is of another vocabulary.
        """
        folder = folder or self.corpus
        if folder is None:
            raise UserError("The run does not say which corpus it was trained on.", "Name one with --data.")
        corpus = WordCorpus(folder)
        known = self.run.get("derived", {}).get("vocabulary_digest")
        if corpus.vocab_size != self.model.vocab_size or known not in (None, corpus.vocabulary_digest):
            raise UserError(
                f"{folder} has another vocabulary ({corpus.vocab_size:,} words, {corpus.vocabulary_digest[:12]}) than "
                f"the model ({self.model.vocab_size:,} words, {str(known)[:12]}).",
                "Prepare the text with the vocabulary of the run's own corpus: --vocab CORPUS/vocab.txt.",
            )
        return corpus


def load_word_model(run: str | Path, which: str = "best", device: str = "auto") -> LoadedWords:
    """Load a checkpoint of a run of a word model, with the average of its weights if it kept one.

    Args:
        run: the run folder.
        which: ``best``, ``last`` or a step.
        device: ``auto`` (CUDA where there is one, else the CPU), ``cpu`` or ``cuda``.

    Raises:
        UserError: if the folder is no run, has no such checkpoint, or its model is of another kind, or there is no such
            device.
    """
    from overnight.train.checkpoint import load_model

    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no CUDA device that torch can use.", "Use --device cpu.")
    loaded = load_model(Path(run), which)
    if not isinstance(loaded.model, WordModel):
        raise UserError(f"{run} holds a {type(loaded.model).__name__}, not a word model.", "Give a run of word-lm.")
    chosen = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    return LoadedWords(loaded.model.to(chosen), chosen, loaded.run, loaded.step, loaded.corpus)
