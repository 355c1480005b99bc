"""Labelled texts as word pieces, for fine-tuning: batches that are a function of (seed, step, first, count).

Shape suffixes: T places, B texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
import torch
from torch import Tensor

from overnight.data.labelled import Examples, labelled_set
from overnight.data.masked.corpus import MaskedCorpus
from overnight.data.masked.order import shuffled
from overnight.data.masked.wordpiece import WordPiece
from overnight.errors import UserError

SPLITS = ("train", "dev", "test")
_MARKS = 2


@dataclass(frozen=True)
class TextBatch:
    """Texts, filled up at their ends with ``[PAD]``.

    Attributes:
        input_BT: int64 ids.
        mask_BT: True where there is text.
        label_B: number of the class.
    """

    input_BT: Tensor
    mask_BT: Tensor
    label_B: Tensor

    def to(self, device: torch.device) -> TextBatch:
        """The batch on a device."""
        return TextBatch(*(x.to(device, non_blocking=True) for x in (self.input_BT, self.mask_BT, self.label_B)))


class TextBatches:
    """The batches of labelled texts: sample s is text π_e(s mod N) of epoch e, so none is left out.

    Args:
        texts, labels: N of them; the labels are numbers of classes.
        pieces: the tokenizer.
        lanes: texts of a batch over all ranks.
        length: word pieces of a text at most, marks included; longer ones lose their ends.
        seed: of the order.

    Raises:
        UserError: no texts, a batch or a length that cannot be.
    """

    def __init__(
        self,
        texts: Sequence[str],
        labels: Sequence[int],
        pieces: WordPiece,
        lanes: int,
        *,
        length: int = 128,
        seed: int | None = 0,
    ) -> None:
        if not texts or lanes < 1:
            raise UserError(f"A batch of {lanes} of {len(texts)} texts cannot be.", "Take at least 1.")
        if length <= _MARKS:
            raise UserError(f"A sequence of {length} word pieces has no room.", f"Take at least {_MARKS + 1}.")
        clean = [text.encode("utf-8", "replace").decode() for text in texts]
        self._ids = [[pieces.cls, *ids[: length - _MARKS], pieces.sep] for ids in pieces.encode(clean)]
        self._labels = np.array(labels, dtype=np.int64)
        self.pieces, self.lanes, self.length, self.seed = pieces, lanes, length, seed or 0
        self.steps_per_epoch = len(texts) / lanes
        self.digest = sha256("\0".join([*clean, *map(str, labels)]).encode()).hexdigest()
        self.vocabulary_digest = pieces.digest

    def __len__(self) -> int:
        return len(self._ids)

    def at(self, step: int, first: int = 0, count: int | None = None) -> TextBatch:
        """The texts ``first`` to ``first + count`` of a step."""
        count = self.lanes - first if count is None else count
        samples = step * self.lanes + first + np.arange(count)
        return self.take(shuffled(len(self), (self.seed,), samples).tolist())

    def take(self, texts: Sequence[int]) -> TextBatch:
        """A batch of these texts, in their order."""
        rows = [self._ids[text] for text in texts]
        input_BT = np.full((len(rows), max(map(len, rows))), self.pieces.pad, dtype=np.int64)
        mask_BT = np.zeros(input_BT.shape, dtype=bool)
        for row, ids in enumerate(rows):
            input_BT[row, : len(ids)] = ids
            mask_BT[row, : len(ids)] = True
        label_B = torch.from_numpy(self._labels[list(texts)])
        return TextBatch(torch.from_numpy(input_BT), torch.from_numpy(mask_BT), label_B)


def text_batches(
    *,
    corpus: str,
    tokenizer_of: str,
    lanes: int,
    seed: int | None,
    split: str = "train",
    dev: str | None = None,
    test: str | None = None,
    length: int = 128,
) -> TextBatches:
    """The batches of a labelled set (see ``overnight.data.labelled.labelled_set``).

    Args:
        corpus: its file or folder.
        tokenizer_of: a corpus folder whose word pieces are taken.
        lanes, seed, length: see ``TextBatches``.
        split: train, dev or test.
        dev, test: files of these splits.

    Raises:
        UserError: if the set or the tokenizer cannot be used, or there is no such split.
    """
    found = labelled_set(corpus, dev=dev, test=test)
    examples: Examples | None = getattr(found, split, None) if split in SPLITS else None
    if examples is None:
        raise UserError(f"{corpus} has no split {split!r}.", f"Choose one of {', '.join(SPLITS)} that it has.")
    numbers = {name: index for index, name in enumerate(found.classes)}
    labels = [numbers[label] for label in examples.labels]
    return TextBatches(examples.texts, labels, MaskedCorpus(tokenizer_of).pieces, lanes, length=length, seed=seed)
