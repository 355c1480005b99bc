"""Blocks of sentences → ids and the length of each sentence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from overnight.data.words.sentences import Block
from overnight.data.words.vocabulary import Vocabulary, WordIndex
from overnight.errors import UserError

Ids = npt.NDArray[np.int64]

# No word is one: a word is UTF-8, and this byte is not.
_END = b"\xff"


@dataclass(frozen=True)
class Sentences:
    """Ids of sentences one after another, how many each has, and how many lines held no word."""

    ids: Ids
    sizes: Ids
    empty: int


def without_mark(block: Block, eos: bytes | None) -> list[bytes]:
    """Words of a block, once it is certain that the word added after sentences is not among them.

    Raises:
        UserError: it is.
    """
    words = block.text.split()
    if eos is not None and eos in block.text and eos in words:
        mark = eos.decode()
        found = next(n for n, line in enumerate(block.text.split(b"\n")) if eos in line.split())
        raise UserError(
            f"{block.place(found)}: the text holds the word {mark}, which stands for the end of a sentence.",
            "Take --eos none if the text marks its own ends, or name another word with --eos WORD.",
        )
    return words


def sentences(block: Block) -> tuple[int, int]:
    """How many lines of a block hold a word, and how many none."""
    lines = block.text.split(b"\n")[:-1]
    empty = sum(not line or line.isspace() for line in lines)
    return len(lines) - empty, empty


class TextEncoder:
    """Text → ids, ``eos`` after each sentence.

    Args:
        vocabulary: words and ids.
        keep_empty: a line without words becomes an ``eos`` of its own.
    """

    def __init__(self, vocabulary: Vocabulary, keep_empty: bool = False) -> None:
        self._eos = vocabulary.eos
        self._mark = None if self._eos is None else vocabulary.words[self._eos]
        self._keep_empty = keep_empty and self._eos is not None
        # an index of its own, so that nobody else's knows the mark
        self._index = WordIndex(vocabulary)
        self._index[_END] = -1

    def __call__(self, block: Block) -> Sentences:
        """Encode a block.

        Raises:
            UserError: the text holds the word that is added after sentences.
        """
        if self._mark is not None and self._mark in block.text:
            without_mark(block, self._mark)
        words = block.text.replace(b"\n", b" \xff ").split()
        ids = np.fromiter(map(self._index.__getitem__, words), dtype=np.int64, count=len(words))
        return _ended(ids, self._eos, self._keep_empty)


class IdsEncoder:
    """Lines ``bos … bos id … id eos`` → ids without ``bos``.

    Args:
        bos, eos: their ids.
        vocab_size: ids must be below it; None takes any.
    """

    def __init__(self, bos: int, eos: int, vocab_size: int | None) -> None:
        self._bos, self._eos, self._vocab_size = bos, eos, vocab_size

    def __call__(self, block: Block) -> Sentences:
        """Encode a block.

        Raises:
            UserError: a line holds what is no id, an id out of range, or an ``eos`` or ``bos`` in a wrong place.
        """
        # int() would take 1_000, +5 and the end of a line too
        if block.text.translate(None, b"0123456789 \t\n\r\v\f"):
            raise self._explained(block)
        words = block.text.replace(b"\n", b" -1 ").split()
        try:
            ids = np.fromiter(map(int, words), dtype=np.int64, count=len(words))
        except (ValueError, OverflowError):
            raise self._explained(block) from None
        end_of_line = ids == -1
        before = np.concatenate([[-1], ids[:-1]])
        bos, eos = ids == self._bos, ids == self._eos
        after = np.concatenate([ids[1:], [-1]])
        begun = end_of_line & (before != -1)
        wrong = (
            (self._vocab_size is not None and bool((ids >= self._vocab_size).any()))
            or bool((bos & (before != self._bos) & (before != -1)).any())
            or bool((eos & (after != -1)).any())
            or bool((before[begun] != self._eos).any())
        )
        if wrong:
            raise self._explained(block)
        return _ended(ids[~bos], None, False)

    def _explained(self, block: Block) -> UserError:
        """The error for the first line that cannot be."""
        for number, line in enumerate(block.text.split(b"\n")[:-1]):
            reason = self._reason(line.split())
            if reason:
                remedy = f"Lines are ids: any number of {self._bos} (--bos-id), words, then {self._eos} (--eos-id)."
                if "vocabulary" in reason:
                    remedy = "Give the vocabulary that the ids were made with, or a larger --vocab-size."
                return UserError(f"{block.place(number)}: {reason}.", remedy)
        return UserError(f"{block.source.path} cannot be read as ids.", "Give a sentence of ids a line.")

    def _reason(self, words: list[bytes]) -> str:
        for place, word in enumerate(words, 1):
            if word.startswith(b"-") and word[1:].isdigit():
                return f"{word.decode()} at place {place} is negative, and ids count from 0"
            if not word.isdigit():
                return f"{word.decode('utf-8', 'replace')!r} at place {place} is no id"
            if len(word) > 18 or (self._vocab_size is not None and int(word) >= self._vocab_size):
                size = "2^31" if self._vocab_size is None else f"{self._vocab_size:,}"
                return f"the id {word.decode()} at place {place} is not below the size of the vocabulary, {size}"
        ids = list(map(int, words))
        while ids and ids[0] == self._bos:
            del ids[0]
        if self._bos in ids:
            return f"the id {self._bos}, which begins sentences, stands inside one"
        if words and (not ids or ids[-1] != self._eos):
            return f"the line does not end with {self._eos}, the end of a sentence"
        return f"the id {self._eos}, which ends sentences, stands inside one" if self._eos in ids[:-1] else ""


def _ended(ids: Ids, eos: int | None, keep_empty: bool) -> Sentences:
    """Ids with -1 after each line → sentences, each ended by ``eos``, or by nothing where that is None."""
    ends = np.flatnonzero(ids == -1)
    sizes = np.diff(ends, prepend=-1) - 1
    is_empty = sizes == 0
    empty = int(is_empty.sum())
    drop = np.zeros(len(ids), dtype=bool)
    if eos is None:
        drop[ends] = True
        return Sentences(ids[~drop], sizes[~is_empty], empty)
    ids[ends] = eos
    if keep_empty:
        return Sentences(ids, sizes + 1, empty)
    drop[ends[is_empty]] = True
    return Sentences(ids[~drop] if empty else ids, sizes[~is_empty] + 1, empty)
