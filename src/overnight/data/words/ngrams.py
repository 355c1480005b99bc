"""Windows of n words, each a sample of its own, for feed-forward language models.

Shape suffixes: B samples, C = n - 1 words of context.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from overnight.data.words.corpus import WordStream
from overnight.data.words.lanes import open_split
from overnight.data.words.shuffle import Shuffle
from overnight.errors import UserError


@dataclass(frozen=True)
class NgramBatch:
    """B samples.

    Attributes:
        context_BC: int64, the words before each target, the oldest first.
        target_B: int64, the words to predict.
    """

    context_BC: Tensor
    target_B: Tensor

    def to(self, device: torch.device) -> NgramBatch:
        """The batch on a device; through pinned memory to a GPU, so that the copy waits for nothing."""

        def move(x: Tensor) -> Tensor:
            return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)

        return NgramBatch(move(self.context_BC), move(self.target_B))


class NgramWindows:
    """The batches of a split as windows of n words; no context reaches over the start of a sentence.

    Every word is a target, ends of sentences among them. What a context lacks before its sentence is filled with
    ``fill``: ``1 1`` before the first word of a sentence for n = 3 where 1 is that id. The batch of step t is a
    function of (seed, t): each epoch has another order of all samples.

    Args:
        stream: the words.
        lanes: B, samples of a step over all ranks.
        order: n.
        fill: the id before a sentence.
        eos: the id that ends sentences; None where nothing does, and contexts reach over them.
        seed: of the orders; None takes the samples as they come.

    Raises:
        UserError: fewer samples than one step takes, or an order below 2.
    """

    def __init__(
        self, stream: WordStream, lanes: int, order: int, *, fill: int, eos: int | None, seed: int | None = 0
    ) -> None:
        if order < 2:
            raise UserError(f"Windows of {order} words have no context.", "Take an order of at least 2.")
        if not 1 <= lanes <= len(stream):
            raise UserError(
                f"{lanes:,} samples a step cannot be taken from {len(stream):,} words.",
                f"Take a batch from 1 to {len(stream):,}.",
            )
        self.stream, self.lanes, self.order, self.fill, self.eos, self.seed = stream, lanes, order, fill, eos, seed
        self.digest: str | None = None
        self.vocabulary_digest: str | None = None
        self.steps_per_epoch = len(stream) // lanes

    def at(self, step: int, first: int = 0, count: int | None = None) -> NgramBatch:
        """The batch of a step for samples ``first`` to ``first + count`` (a rank's, or a micro-batch's share)."""
        count = self.lanes - first if count is None else count
        epoch, index = divmod(step, self.steps_per_epoch)
        place_B = np.arange(count, dtype=np.int64) + (index * self.lanes + first)
        if self.seed is not None:
            place_B = Shuffle(len(self.stream), (self.seed, epoch))(place_B)
        return self.of(place_B)

    def in_order(self) -> Iterator[NgramBatch]:
        """Every word of the split once as a target, in order; the last batch is what is left."""
        for start in range(0, len(self.stream), self.lanes):
            yield self.of(np.arange(start, min(start + self.lanes, len(self.stream)), dtype=np.int64))

    def of(self, position_B: npt.NDArray[np.int64]) -> NgramBatch:
        """The samples whose targets stand at these positions of the stream."""
        position_Bn = position_B[:, None] + np.arange(1 - self.order, 1)
        word_Bn = self.stream.take(position_Bn.clip(0))
        context_BC = word_Bn[:, :-1]
        outside_BC = position_Bn[:, :-1] < 0
        if self.eos is not None:
            ended_BC = context_BC == self.eos
            # an end among the words after it in the context puts a word outside too
            outside_BC |= np.flip(np.maximum.accumulate(np.flip(ended_BC, 1), 1), 1)
        filled_BC = np.where(outside_BC, self.fill, context_BC)
        return NgramBatch(torch.from_numpy(filled_BC), torch.from_numpy(word_Bn[:, -1].copy()))


def ngram_windows(*, corpus: str, lanes: int, seed: int | None, split: str = "train", order: int = 3) -> NgramWindows:
    """The windows of a corpus of words, after checking its files against its manifest (see ``word_lanes``).

    Contexts before a sentence are filled with the corpus's ``bos``; where it has none with ``eos``, or with ``unk``.

    Args:
        corpus: a folder made by ``overnight prepare --words``.
        lanes: B, samples of a step over all ranks.
        seed: of the orders of the samples; None takes them as they come.
        split: which split.
        order: n, words of a window.

    Raises:
        UserError: if the folder is no corpus of words, a file was altered, or the split has too few words.
    """
    opened = open_split(corpus, split)
    made = NgramWindows(opened.split(split), lanes, order, fill=opened.fill, eos=opened.eos, seed=seed)
    made.digest, made.vocabulary_digest = opened.digest, opened.vocabulary_digest
    return made
