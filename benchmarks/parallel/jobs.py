"""What is trained: word models with vocabularies of 10,000 and 60,000 words, and a byte model without a large one."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from overnight.data.builtin import builtin_corpus
from overnight.data.corpus import Corpus
from overnight.data.lanes import LaneBatch, Lanes
from overnight.data.words.corpus import WordCorpus
from overnight.errors import UserError
from overnight.evaluate.heldout import evaluate_heldout
from overnight.evaluate.words import evaluate_words
from overnight.models.byte_lm import ByteLM
from overnight.models.neural_lm import RecurrentLM
from overnight.models.word_lm import WordLM
from overnight.tasks.language_model import LanguageModelTask
from overnight.tasks.word_model import WordModelTask

LANES, WORDS, BYTES = 16, 20, 64
"""Of one worker: lanes; and words, or bytes, a lane and step."""
LARGE = 60_000
"""Words of the larger vocabulary."""
Batches = Callable[[int], LaneBatch]


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        task: with its model.
        batches: step → this rank's batch.
        tokens_per_step: of one worker.
        lr: peak rate of plain SGD, or of Adam for bytes.
        max_norm: of clipping.
        adam: the optimizer is Adam.
        blocks: pattern of the recurrent weights' names → blocks of units.
        random, frequent: shares of the vocabulary that a sampled step draws, and that are always among its words.
        evaluate: the model's exact perplexity, or bits a byte, on held-out text; None where words are only drawn.
    """

    task: nn.Module
    batches: Batches
    tokens_per_step: int
    lr: float
    max_norm: float
    adam: bool
    blocks: Mapping[str, int]
    random: float
    frequent: float
    evaluate: Callable[[nn.Module], float] | None


def job(model: str, rank: int, workers: int, seed: int, sampled: bool, corpus: Path | None, tiny: bool) -> Job:
    """A training of this name, as this rank has it."""
    torch.manual_seed(seed)
    if model == "byte":
        return _bytes(rank, workers, seed, tiny)
    vocab_size, batches, evaluate = _words(model, rank, workers, seed, corpus, tiny)
    embedding, hidden = (16, 32) if tiny else (128, 128 if model.startswith("small") else 256)
    random, frequent = (0.06, 0.02) if vocab_size == LARGE else (0.13, 0.02)
    output = f"sampled:{round((random + frequent) * vocab_size)}" if sampled else "full"
    options: dict[str, Any] = {"output": output, "sparse": sampled, "seed": seed, "init_range": 0.1}
    if model.startswith("rnn"):
        made: nn.Module = RecurrentLM(vocab_size, embedding, hidden, **options)
        blocks = {"model.input.weight": 1, "model.recurrent.weight": 1}
    else:
        made = WordLM(vocab_size, embedding, hidden, 1, **options)
        blocks = {"model.recurrent.*weight": 4}
    task = WordModelTask(made, reduction="sum_over_time")
    rate = 0.2 if model.startswith("rnn") else 1.0  # those of the presets wsj-rnn and wsj-lstm
    return Job(task, batches, LANES * WORDS, rate, 5.0, False, blocks, random, frequent, evaluate)


def _words(
    model: str, rank: int, workers: int, seed: int, corpus: Path | None, tiny: bool
) -> tuple[int, Batches, Callable[[nn.Module], float] | None]:
    if model.endswith("60k"):
        return LARGE, drawn_words(_counts(LARGE), seed, rank), None
    if corpus is None:
        raise UserError(
            f"The model {model} reads a corpus of words.",
            "Prepare one with `overnight prepare --words`, as docs/words.md does the Penn Treebank, and give --corpus.",
        )
    opened = WordCorpus.open(corpus)
    lanes = Lanes(opened.split("train"), LANES * workers, WORDS, seed=seed, reset="never")
    held_out = opened.split("test")
    text = held_out.head(min(len(held_out), 2_000)) if tiny else held_out

    def evaluate(trained: nn.Module) -> float:
        return evaluate_words(trained, text, eos=opened.eos, vocab_size=opened.vocab_size).perplexity

    return opened.vocab_size, lambda step: lanes.at(step, rank * LANES, LANES), evaluate


def _counts(vocab_size: int) -> np.ndarray:
    """The most frequent words' counts in the One Billion Word benchmark."""
    folder = os.environ.get("OVERNIGHT_DATA")
    path = Path(folder or "") / "lm1b_counts" / "word_freq_int32.npy"
    if folder is None or not path.is_file():
        raise UserError(
            "The counts of One Billion Word are not there.", "Set OVERNIGHT_DATA to a folder that has them."
        )
    return np.sort(np.load(path))[::-1][:vocab_size].astype(np.float64)


def drawn_words(counts: np.ndarray, seed: int, rank: int) -> Batches:
    """Batches of independent words, as frequent as their counts say; ids by falling frequency."""
    edges = np.cumsum(counts / counts.sum())

    def at(step: int) -> LaneBatch:
        draws = np.random.default_rng([seed, step, rank]).random((WORDS + 1, LANES))
        ids = torch.from_numpy(np.searchsorted(edges, draws).clip(max=len(counts) - 1))
        return LaneBatch(ids[:-1], ids[1:], torch.zeros(WORDS, LANES, dtype=torch.bool))

    return at


def _bytes(rank: int, workers: int, seed: int, tiny: bool) -> Job:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "overnight"
    corpus = Corpus(builtin_corpus(cache))
    lanes = Lanes(corpus.split("train"), LANES * workers, BYTES, seed=seed)
    held_out = corpus.split("valid")
    text = held_out.head(min(len(held_out), 20_000 if tiny else 400_000))
    task = LanguageModelTask(ByteLM(32 if tiny else 512))
    # weight normalisation: units are rows of v and of g
    blocks = {"model.layers.*gates.*_to_gates.*": 4, "model.layers.*gates.*_to_m.*": 1}

    def evaluate(trained: nn.Module) -> float:
        return evaluate_heldout(trained, text).bits_per_byte

    def batches(step: int) -> LaneBatch:
        return lanes.at(step, rank * LANES, LANES)

    return Job(task, batches, LANES * BYTES, 3e-3, 1.0, True, blocks, 0.0, 0.0, evaluate)


def parameters(task: nn.Module) -> dict[str, Tensor]:
    """Those that are trained, by name."""
    return {name: p for name, p in task.named_parameters() if p.requires_grad}
