"""Questions with windows of their paragraphs: batches that are a function of (seed, step, first, count).

A window is ``[CLS] question [SEP] piece of the paragraph [SEP]``; the pieces of one paragraph overlap, so that an
answer that is cut by one window is whole in another (Devlin et al. 2019, section 4.2).

Shape suffixes: T places, B windows, C word pieces of a paragraph.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from overnight.data.masked.chunks import MARKS
from overnight.data.masked.corpus import MaskedCorpus
from overnight.data.masked.order import shuffled
from overnight.data.masked.squad import Question, digest_of, read_squad
from overnight.data.masked.wordpiece import WordPiece
from overnight.errors import UserError

Ids = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Window:
    """A question and a piece of its paragraph.

    Attributes:
        question: its number.
        ids: with marks.
        begin: place of the first id of the paragraph; those after it are the paragraph's but for the last mark.
        offsets_C2: from which to before which character of the paragraph these go.
        span: places of the answer's first and last id; (0, 0), the ``[CLS]``, where it is not wholly in the window.
    """

    question: int
    ids: Ids
    begin: int
    offsets_C2: Ids
    span: tuple[int, int]


@dataclass(frozen=True)
class SpanBatch:
    """Windows, filled up at their ends with ``[PAD]``.

    Attributes:
        input_BT: int64 ids.
        type_BT: 0 for the question, 1 for the paragraph.
        mask_BT: True where there is text.
        span_B2: places of the first and last id of the answer.
    """

    input_BT: Tensor
    type_BT: Tensor
    mask_BT: Tensor
    span_B2: Tensor

    def to(self, device: torch.device) -> SpanBatch:
        """The batch on a device."""
        parts = (self.input_BT, self.type_BT, self.mask_BT, self.span_B2)
        return SpanBatch(*(x.to(device, non_blocking=True) for x in parts))


def windows_of(
    questions: Sequence[Question], pieces: WordPiece, *, length: int, stride: int, question_length: int
) -> list[Window]:
    """The windows of questions, in their order; a paragraph without a word has one all the same.

    Args:
        questions: of a file.
        pieces: the tokenizer.
        length: ids of a window at most, marks included.
        stride: ids from the beginning of one window to that of the next; fewer than a window has room for.
        question_length: ids of a question at most; longer ones lose their ends.

    Raises:
        UserError: for lengths that cannot be.
    """
    room = length - question_length - MARKS
    if question_length < 1 or room < 1:
        raise UserError(
            f"A window of {length} word pieces has no room beside a question of {question_length}.",
            "Take a larger --length, or a smaller --question-length.",
        )
    if not 1 <= stride <= room:
        raise UserError(
            f"A stride of {stride} leaves out what is between windows of {room} word pieces.", f"Take 1 to {room}."
        )
    contexts = list(dict.fromkeys(one.context for one in questions))
    coded = dict(zip(contexts, pieces.encode_with_offsets([_clean(text) for text in contexts]), strict=True))
    asked = pieces.encode([_clean(one.question) for one in questions])
    found = []
    for number, one in enumerate(questions):
        ids, offsets = coded[one.context]
        offsets_C2 = np.array(offsets, dtype=np.int32).reshape(-1, 2)
        head = [pieces.cls, *asked[number][:question_length], pieces.sep]
        answer = _places(one, offsets_C2)
        fits = length - len(head) - 1
        start = 0
        while True:
            stop = min(start + fits, len(ids))
            span = (0, 0)
            if answer is not None and start <= answer[0] and answer[1] < stop:
                span = (len(head) + answer[0] - start, len(head) + answer[1] - start)
            row = np.array([*head, *ids[start:stop], pieces.sep], dtype=np.int32)
            found.append(Window(number, row, len(head), offsets_C2[start:stop], span))
            if stop == len(ids):
                break
            start += stride
    return found


def _clean(text: str) -> str:
    """Half surrogates, which JSON can hold, become one character as they were."""
    return text.encode("utf-8", "replace").decode()


def _places(question: Question, offsets_C2: Ids) -> tuple[int, int] | None:
    """First and last id of the first answer, or nothing where there is none."""
    if not question.answers:
        return None
    text, start = question.answers[0]
    first = int(np.searchsorted(offsets_C2[:, 1], start, side="right"))
    last = int(np.searchsorted(offsets_C2[:, 0], start + len(text), side="left")) - 1
    return (first, last) if first <= last else None


class SpanBatches:
    """The batches of questions: sample s is window π_e(s mod N) of epoch e, so none is left out.

    Args:
        questions: of a file.
        pieces: the tokenizer.
        lanes: windows of a batch over all ranks.
        length, stride, question_length: see ``windows_of``.
        seed: of the order.

    Attributes:
        windows: all of them, in the order of the questions.

    Raises:
        UserError: as ``windows_of``, or for a batch that cannot be.
    """

    def __init__(
        self,
        questions: list[Question],
        pieces: WordPiece,
        lanes: int,
        *,
        length: int = 384,
        stride: int = 128,
        question_length: int = 64,
        seed: int | None = 0,
    ) -> None:
        if lanes < 1:
            raise UserError(f"A batch of {lanes} windows cannot be.", "Take at least 1.")
        self.windows = windows_of(questions, pieces, length=length, stride=stride, question_length=question_length)
        self.questions, self.pieces, self.lanes, self.seed = questions, pieces, lanes, seed or 0
        self.steps_per_epoch = len(self.windows) / lanes
        self.digest = digest_of(questions)
        self.vocabulary_digest = pieces.digest

    def __len__(self) -> int:
        return len(self.windows)

    def at(self, step: int, first: int = 0, count: int | None = None) -> SpanBatch:
        """The windows ``first`` to ``first + count`` of a step."""
        count = self.lanes - first if count is None else count
        samples = step * self.lanes + first + np.arange(count)
        return self.take(shuffled(len(self), (self.seed,), samples).tolist())

    def take(self, places: Sequence[int]) -> SpanBatch:
        """A batch of these windows, in their order."""
        rows = [self.windows[place] for place in places]
        shape = (len(rows), max(len(row.ids) for row in rows))
        input_BT = np.full(shape, self.pieces.pad, dtype=np.int64)
        type_BT, mask_BT = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
        for number, row in enumerate(rows):
            size = len(row.ids)
            input_BT[number, :size] = row.ids
            type_BT[number, row.begin : size] = 1
            mask_BT[number, :size] = True
        span_B2 = torch.tensor([row.span for row in rows])
        return SpanBatch(torch.from_numpy(input_BT), torch.from_numpy(type_BT), torch.from_numpy(mask_BT), span_B2)


def span_batches(
    *,
    corpus: str,
    tokenizer_of: str,
    lanes: int,
    seed: int | None,
    length: int = 384,
    stride: int = 128,
    question_length: int = 64,
) -> SpanBatches:
    """The batches of a file of SQuAD.

    Args:
        corpus: the file.
        tokenizer_of: a corpus folder whose word pieces are taken.
        lanes, seed, length, stride, question_length: see ``SpanBatches``.

    Raises:
        UserError: if the file or the tokenizer cannot be used, or lengths cannot be.
    """
    sizes = {"length": length, "stride": stride, "question_length": question_length}
    return SpanBatches(read_squad(corpus), MaskedCorpus(tokenizer_of).pieces, lanes, seed=seed, **sizes)
