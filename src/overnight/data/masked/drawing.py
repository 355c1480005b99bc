"""What is drawn for a sequence: its two segments, and which of its word pieces are to be guessed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from overnight.data.masked.chunks import Chunks
from overnight.data.masked.wordpiece import WordPiece
from overnight.errors import UserError

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Masking:
    """How much of a sequence is hidden, and how (Devlin et al. 2019, section 3.1).

    Args:
        share: of the ids that are to be guessed.
        whole_words: hide all pieces of a word together.
        mask, random: shares of those that become ``[MASK]``, and any piece; the others stay as they are.
        short: share of the sequences that are cut to a random length.
        next_sentence: two segments, of which the second is as often as not from another document; else one segment.

    Raises:
        UserError: for shares that cannot be.
    """

    share: float = 0.15
    whole_words: bool = False
    mask: float = 0.8
    random: float = 0.1
    short: float = 0.1
    next_sentence: bool = True

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise UserError(f"A share of {self.share:g} to be guessed cannot be.", "Take a number between 0 and 1.")
        if min(self.mask, self.random, self.short) < 0 or self.mask + self.random > 1 or self.short > 1:
            raise UserError("The shares of masks do not add up.", "mask + random must be at most 1, all from 0 to 1.")


@dataclass(frozen=True)
class Sequence:
    """A drawn sequence of n ids.

    Attributes:
        ids: as the model reads them.
        types: 0 for the first segment, 1 for the second.
        places: where something is to be guessed, rising.
        targets: what stood there.
        swapped: the second segment is from elsewhere; of a sequence with one segment it says nothing.
    """

    ids: Ids
    types: Ids
    places: Ids
    targets: Ids
    swapped: bool


def draw(
    chunks: Chunks, chunk: int, capacity: int, masking: Masking, pieces: WordPiece, rng: np.random.Generator
) -> Sequence:
    """Draw what is made of a chunk.

    Args:
        chunks: of the split.
        chunk: which.
        capacity: ids of the sequence, marks not counted.
        masking: settings.
        pieces: the tokenizer.
        rng: of this sequence alone.
    """
    sentences = chunks.read(chunk)
    if rng.random() < masking.short:
        capacity = int(rng.integers(2, capacity + 1))
    if masking.next_sentence:
        first, second, swapped = _segments(chunks, chunk, sentences, rng)
        keep = min(len(second), max(capacity - len(first), capacity // 2))
        # the words nearest to where the two meet stay
        first, second = first[-max(1, capacity - keep) :], second[: max(1, keep)]
        ids = np.concatenate([[pieces.cls], first, [pieces.sep], second, [pieces.sep]])
    else:
        first, second, swapped = np.concatenate(sentences)[: capacity + 1], np.zeros(0, np.int64), False
        ids = np.concatenate([[pieces.cls], first, [pieces.sep]])
    types = np.zeros(len(ids), dtype=np.int64)
    if masking.next_sentence:
        types[len(first) + 2 :] = 1
    places = _places(ids, masking, pieces, rng)
    targets = ids[places]
    kind = rng.random(len(places))
    other = pieces.ordinary[rng.integers(0, len(pieces.ordinary), len(places))]
    seen = np.where(kind < masking.mask, pieces.mask, np.where(kind < masking.mask + masking.random, other, targets))
    ids[places] = seen
    return Sequence(ids, types, places, targets, swapped)


def _segments(chunks: Chunks, chunk: int, sentences: list[Ids], rng: np.random.Generator) -> tuple[Ids, Ids, bool]:
    """Two segments, and whether the second is from elsewhere; it is where the chunk has one sentence only."""
    cut = int(rng.integers(1, len(sentences))) if len(sentences) > 1 else 1
    first = np.concatenate(sentences[:cut])
    if len(sentences) > 1 and (rng.random() < 0.5 or len(chunks) == 1):
        return first, np.concatenate(sentences[cut:]), False
    own, _ = chunks.document(chunk)
    other = int(rng.integers(len(chunks)))
    for _ in range(10):
        if other != chunk and (chunks.documents == 1 or chunks.document(other)[0] != own):
            break
        other = int(rng.integers(len(chunks)))
    return first, np.concatenate(chunks.read(other)), True


def _places(ids: Ids, masking: Masking, pieces: WordPiece, rng: np.random.Generator) -> Ids:
    count = max(1, round(masking.share * len(ids)))
    inner = np.flatnonzero((ids != pieces.cls) & (ids != pieces.sep))
    if not masking.whole_words:
        return np.sort(rng.permutation(inner)[:count])
    begins = ~pieces.continues[ids[inner]]
    begins[:1] = True
    words = np.split(inner, np.flatnonzero(begins)[1:])
    chosen: list[Ids] = []
    left = count
    for index in rng.permutation(len(words)):
        if len(words[index]) <= left:
            chosen.append(words[index])
            left -= len(words[index])
        if not left:
            break
    # a sequence of one long word has it hidden in part rather than nothing to guess
    return np.sort(np.concatenate(chosen)) if chosen else inner[:count]
