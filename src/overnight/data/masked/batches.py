"""Masked batches, each a function of (seed, step, first, count).

Samples are counted over the whole run: sample s is row π_e(s mod N) of epoch e = s // N, where π_e is a permutation
that (seed, e) decides and that is never held. A row is a chunk of a document, or several with packing. What is drawn
for it (the two segments, the masks) is decided by (seed, s), so it is another in every epoch.

Shape suffixes: T places, B rows, M word pieces to be guessed, S sequences (more than rows where rows are packed).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from overnight.data.masked.chunks import MARKS, Chunks, pack
from overnight.data.masked.corpus import MaskedCorpus, SentenceStream
from overnight.data.masked.drawing import Masking, Sequence, draw
from overnight.data.masked.order import shuffled
from overnight.data.masked.wordpiece import WordPiece
from overnight.errors import UserError

_ORDER, _DRAWS = 0, 1
_MULTIPLE = 8


@dataclass(frozen=True)
class MaskedBatch:
    """Rows, filled up at their ends with ``[PAD]``.

    Attributes:
        input_BT: int64 ids, some of them hidden.
        type_BT: 0 for a first segment, 1 for a second.
        position_BT: of each id in its sequence.
        sequence_BT: number of the sequence of the row, from 1; 0 for padding.
        masked_M: places in ``input_BT.flatten()`` that are to be guessed.
        target_M: what stood there.
        first_S: places of each sequence's ``[CLS]`` in ``input_BT.flatten()``.
        swapped_S: 1 where the second segment is from elsewhere, else 0.
        packed: rows hold several sequences, which do not see each other.
        targets: M, known on the host.
    """

    input_BT: Tensor
    type_BT: Tensor
    position_BT: Tensor
    sequence_BT: Tensor
    masked_M: Tensor
    target_M: Tensor
    first_S: Tensor
    swapped_S: Tensor
    packed: bool
    targets: int

    def to(self, device: torch.device) -> MaskedBatch:
        """The batch on a device; through pinned memory to a GPU, so that the copy waits for nothing."""

        def move(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)

        return MaskedBatch(*(move(getattr(self, item.name)) for item in fields(self)))


class MaskedBatches:
    """The batches of a split.

    Args:
        stream: usually ``MaskedCorpus(folder).split("train")``.
        pieces: the corpus's tokenizer.
        lanes: rows of a batch over all ranks; there may be fewer in the split.
        length: T at most, marks included.
        seed: of the order and of what is drawn.
        masking: what is drawn.
        packed: fill rows with several sequences.

    Attributes:
        length: as given.
        steps_per_epoch: rows / lanes, which need not be a whole number.

    Raises:
        UserError: for settings that cannot be, or a split without text.
    """

    def __init__(
        self,
        stream: SentenceStream,
        pieces: WordPiece,
        lanes: int,
        *,
        length: int = 128,
        seed: int | None = 0,
        masking: Masking | None = None,
        packed: bool = False,
    ) -> None:
        if lanes < 1:
            raise UserError(f"A batch of {lanes} sequences cannot be read.", "Take at least 1.")
        self.chunks = Chunks(stream, pieces.sep, length, even=not packed)
        self.pieces, self.lanes, self.length, self.seed = pieces, lanes, length, seed or 0
        self.masking, self.packed = masking or Masking(), packed
        self._sizes = self.chunks.sizes() + MARKS if packed else None
        self._rows = pack(self._sizes, length) if self._sizes is not None else None
        self.rows = len(self._rows[1]) - 1 if self._rows is not None else len(self.chunks)
        self.steps_per_epoch = self.rows / lanes
        self.digest: str | None = None
        self.vocabulary_digest: str | None = pieces.digest

    def at(self, step: int, first: int = 0, count: int | None = None) -> MaskedBatch:
        """The rows ``first`` to ``first + count`` of a step (a rank's, or a micro-batch's share)."""
        count = self.lanes - first if count is None else count
        samples = step * self.lanes + first + np.arange(count)
        found = shuffled(self.rows, (self.seed, _ORDER), samples)
        return self.batch([self.row(int(row), int(sample)) for row, sample in zip(found, samples, strict=True)])

    def row(self, row: int, sample: int) -> list[Sequence]:
        """The sequences of a row, drawn for a sample of the run."""
        rng = np.random.default_rng((self.seed, _DRAWS, sample))
        if self._rows is None or self._sizes is None:
            return [draw(self.chunks, row, self.chunks.capacity, self.masking, self.pieces, rng)]
        order, edges = self._rows
        own = order[edges[row] : edges[row + 1]]
        room, found = self.length - int(self._sizes[own].sum()), []
        for chunk in own:  # each has its own size and what those before it left
            room += int(self._sizes[chunk])
            found.append(draw(self.chunks, int(chunk), room - MARKS, self.masking, self.pieces, rng))
            room -= len(found[-1].ids)
        return found

    def batch(self, rows: list[list[Sequence]]) -> MaskedBatch:
        """Rows of sequences, side by side."""
        longest = max(sum(len(one.ids) for one in row) for row in rows)
        width = min(-(-longest // _MULTIPLE) * _MULTIPLE, max(self.length, longest))
        type_BT, position_BT, sequence_BT = (np.zeros((len(rows), width), dtype=np.int64) for _ in range(3))
        input_BT = np.full((len(rows), width), self.pieces.pad, dtype=np.int64)
        masked, targets, firsts, swapped = [], [], [], []
        for number, row in enumerate(rows):
            at = 0
            for index, one in enumerate(row, 1):
                span = slice(at, at + len(one.ids))
                input_BT[number, span] = one.ids
                type_BT[number, span] = one.types
                position_BT[number, span] = np.arange(len(one.ids))
                sequence_BT[number, span] = index
                masked.append(one.places + number * width + at)
                targets.append(one.targets)
                firsts.append(number * width + at)
                swapped.append(int(one.swapped))
                at = span.stop
        target_M = torch.from_numpy(np.concatenate(targets))
        return MaskedBatch(
            torch.from_numpy(input_BT),
            torch.from_numpy(type_BT),
            torch.from_numpy(position_BT),
            torch.from_numpy(sequence_BT),
            torch.from_numpy(np.concatenate(masked)),
            target_M,
            torch.tensor(firsts),
            torch.tensor(swapped),
            self.packed,
            len(target_M),
        )


def masked_batches(
    *,
    corpus: str,
    lanes: int,
    seed: int | None,
    split: str = "train",
    length: int = 128,
    packed: bool = False,
    share: float = 0.15,
    whole_words: bool = False,
    short: float = 0.1,
    next_sentence: bool = True,
) -> MaskedBatches:
    """The batches of a corpus folder, after checking its files against its manifest: on a host with several ranks the
    one whose ``LOCAL_RANK`` is 0 does that for all of them.

    Args:
        corpus: a folder made by ``overnight prepare --bert``.
        lanes, seed, length, packed: see ``MaskedBatches``.
        split: which split.
        share, whole_words, short, next_sentence: see ``Masking``.

    Raises:
        UserError: if the folder is no corpus of sentences, a file was altered, or no document has two sentences
            where there is a next sentence to be told.
    """
    opened = MaskedCorpus(corpus)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        opened.verify()
    check_sentences(opened, next_sentence)
    masking = Masking(share=share, whole_words=whole_words, short=short, next_sentence=next_sentence)
    made = MaskedBatches(
        opened.split(split), opened.pieces, lanes, length=length, seed=seed, masking=masking, packed=packed
    )
    made.digest, made.vocabulary_digest = opened.digest, opened.vocabulary_digest
    return made


def check_sentences(corpus: MaskedCorpus, next_sentence: bool) -> None:
    """Raise UserError if next sentences are to be told of a corpus that has none."""
    if next_sentence and not corpus.with_pairs:
        raise UserError(
            f"No document of {corpus.folder} has two sentences, so there is no next sentence to tell.",
            "Prepare it with sentence breaks (. ! ? before a capital, or line breaks), or train with "
            "--no-next-sentence.",
        )
