"""Documents cut into chunks that fill a sequence, and chunks put together in rows: found by arithmetic, never stored.

A document of n ids is cut into ⌈n / c⌉ chunks of like size, c = the ids that a sequence has beside its marks; to be
packed, into chunks of c and a rest. A chunk goes from the first sentence that begins in its part of the document to the
first that begins in the next.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from overnight.data.masked.corpus import SentenceStream
from overnight.errors import UserError

Ids = npt.NDArray[np.int64]
MARKS = 3
"""``[CLS] A [SEP] B [SEP]``."""


class Chunks:
    """The chunks of a split: sixteen bytes a document in memory.

    Args:
        stream: a split.
        sep: id that ends a sentence.
        length: ids of a sequence, marks included.
        even: chunks of a document are of like size; else all but the last have c ids. A rest of less than an eighth of
            that is not a chunk: it stays with the last, from which it may be cut off.

    Raises:
        UserError: if a sequence has no room, or there is no text.
    """

    def __init__(self, stream: SentenceStream, sep: int, length: int, *, even: bool = True) -> None:
        if length < MARKS + 2:
            raise UserError(f"A sequence of {length} word pieces has no room.", f"Take at least {MARKS + 2}.")
        if not stream.documents:
            raise UserError("The split holds no document.", "Prepare the corpus with more text, or another --split.")
        self.stream, self.sep, self.capacity = stream, sep, length - MARKS
        self.even = even
        rest = 0 if even else self.capacity // 8
        counts = np.maximum(1, -(-(np.diff(stream.edges) - rest) // self.capacity))
        self._first = np.concatenate([[0], np.cumsum(counts)])

    def __len__(self) -> int:
        return int(self._first[-1])

    @property
    def documents(self) -> int:
        """How many they are of."""
        return self.stream.documents

    def document(self, chunk: int) -> tuple[int, int]:
        """The document of a chunk, and its place in it."""
        document = int(np.searchsorted(self._first, chunk, side="right")) - 1
        return document, chunk - int(self._first[document])

    def stride(self, document: int) -> int:
        """Ids from where one chunk of a document begins to where the next does, about: a chunk ends with a sentence."""
        if not self.even:
            return self.capacity
        size = int(self.stream.edges[document + 1] - self.stream.edges[document])
        return -(-size // int(self._first[document + 1] - self._first[document]))

    def sizes(self) -> Ids:
        """Ids of every chunk that is to be packed, about; at least 2, at most c."""
        rests = np.diff(self.stream.edges) - (np.diff(self._first) - 1) * self.capacity
        found = np.full(len(self), self.capacity)
        found[self._first[1:] - 1] = np.clip(rests, 2, self.capacity)
        return found

    def read(self, chunk: int) -> list[Ids]:
        """The sentences of a chunk, without their ends; at least one, of at least one id."""
        document, place = self.document(chunk)
        begin, end = int(self.stream.edges[document]), int(self.stream.edges[document + 1])
        stride = self.stride(document)
        low, high = begin + place * stride, min(begin + (place + 1) * stride, end)
        if chunk + 1 == self._first[document + 1]:
            high = end
        start = max(begin, low - 1)  # with the end of the sentence before it, if it begins with one
        stop = min(end, high + self.capacity)
        ids = self.stream.read(start, stop - start).astype(np.int64)
        ends = np.flatnonzero(ids == self.sep) + start
        begins = np.append(ends[ends + 1 < stop] + 1, stop)
        first = begin if place == 0 else int(begins[np.searchsorted(begins, low)])
        last = end if high == end else int(begins[np.searchsorted(begins, high)])
        if first >= high:  # a sentence that fills its part of the document, and went on from the one before
            first, last = low, high
        ids = ids[first - start : last - start]
        cuts = np.flatnonzero(ids == self.sep)
        sentences = [part[part != self.sep] for part in np.split(ids, cuts + 1)]
        found = [sentence for sentence in sentences if len(sentence)]
        # only the mark itself may be left of a sentence that was cut
        return found or [np.array([self.sep])]


def pack(sizes: Ids, length: int) -> tuple[Ids, Ids]:
    """Put chunks into rows of ``length`` ids, the largest first, each into the fullest row that has room for it.

    Best-fit decreasing, of all chunks of one size at a time (Krell et al. 2021, arXiv 2107.02027). Twenty-four bytes a
    chunk in memory.

    Args:
        sizes: ids of each chunk with its marks, at most ``length``.
        length: of a row.

    Returns:
        The chunks in the order of their rows, and where each row begins in it, with the end of the last.

    >>> order, edges = pack(np.array([5, 3, 4, 2, 1]), 6)
    >>> [order[one:two].tolist() for one, two in zip(edges, edges[1:])]
    [[0, 4], [2, 3], [1]]
    """
    row_of = np.empty(len(sizes), dtype=np.int64)
    open_rows = [np.empty(0, dtype=np.int64) for _ in range(length + 1)]  # by the room that is left
    by_size, rows = np.argsort(-sizes, kind="stable"), 0
    for group in np.split(by_size, np.flatnonzero(np.diff(sizes[by_size])) + 1) if len(sizes) else ():
        size = int(sizes[group[0]])
        for room in range(size, length + 1):
            taken = min(len(group), len(open_rows[room]))
            if taken:
                filled, open_rows[room] = np.split(open_rows[room], [taken])
                row_of[group[:taken]] = filled
                open_rows[room - size] = np.concatenate([open_rows[room - size], filled])
                group = group[taken:]
        fresh = np.arange(len(group)) // (length // size)
        row_of[group] = rows + fresh
        left = length - size * np.bincount(fresh)
        for room in np.unique(left):
            made = rows + np.flatnonzero(left == room)
            open_rows[room] = np.concatenate([open_rows[room], made])
        rows += len(left)
    edges = np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=rows))])
    return np.argsort(row_of, kind="stable"), edges
