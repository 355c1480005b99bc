"""Documents cut into chunks that fill a sequence, and chunks put together in rows: found by arithmetic, never stored.

A document of n ids is cut into ⌈n / c⌉ chunks of like size, c = the ids that a sequence has beside its marks. A chunk
goes from the first sentence that begins in its part of the document to the first that begins in the next.
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

    Raises:
        UserError: if a sequence has no room, or there is no text.
    """

    def __init__(self, stream: SentenceStream, sep: int, length: int) -> None:
        if length < MARKS + 2:
            raise UserError(f"A sequence of {length} word pieces has no room.", f"Take at least {MARKS + 2}.")
        if not stream.documents:
            raise UserError("The split holds no document.", "Prepare the corpus with more text, or another --split.")
        self.stream, self.sep, self.capacity = stream, sep, length - MARKS
        sizes = np.diff(stream.edges)
        counts = -(-sizes // self.capacity)
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
        """Ids of the chunks of a document, about: a chunk ends with a sentence."""
        size = int(self.stream.edges[document + 1] - self.stream.edges[document])
        return -(-size // int(self._first[document + 1] - self._first[document]))

    def strides(self) -> Ids:
        """``stride`` of every chunk."""
        sizes, counts = np.diff(self.stream.edges), np.diff(self._first)
        return np.repeat(-(-sizes // counts), counts)

    def read(self, chunk: int) -> list[Ids]:
        """The sentences of a chunk, without their ends; at least one, of at least one id."""
        document, place = self.document(chunk)
        begin, end = int(self.stream.edges[document]), int(self.stream.edges[document + 1])
        stride = self.stride(document)
        low, high = begin + place * stride, min(begin + (place + 1) * stride, end)
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


def pack(chunks: Chunks, length: int) -> Ids:
    """Rows of neighbouring chunks that fit into ``length`` ids together: where each begins, and the end of the last.

    Next-fit over the chunks in their order (Krell et al. 2021, arXiv 2107.02027, have better fits, at more cost).
    """
    room = np.concatenate([[0], np.cumsum(chunks.strides() + MARKS)])
    beyond = np.searchsorted(room, room[:-1] + length, side="right") - 1
    beyond = np.maximum(beyond, np.arange(len(beyond)) + 1)
    following, edges = beyond.tolist(), [0]
    while edges[-1] < len(following):
        edges.append(following[edges[-1]])
    return np.array(edges, dtype=np.int64)
