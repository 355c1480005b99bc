"""Words and their ids: built from counts, or read from a file."""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from overnight.errors import UserError

UNK_NAMES = (b"<unk>", b"<UNK>")
EOS_NAMES = (b"<eos>", b"</s>", b"<S>", b"</S>")


@dataclass(frozen=True)
class Vocabulary:
    """Words by id, as bytes of UTF-8, and which of them have a meaning of their own.

    Args:
        words: word of each id, none twice.
        unk: id that stands for every other word.
        eos: id that ends every sentence; None where the text marks no ends.
        bos: id that fills the context before a sentence's first word; None where nothing but ``eos`` does.

    >>> vocabulary = Vocabulary([b"<eos>", b"the", b"<unk>"], unk=2, eos=0)
    >>> vocabulary.encode("the cat").tolist(), vocabulary.decode([1, 2, 0])
    ([1, 2], ['the', '<unk>', '<eos>'])
    """

    words: Sequence[bytes]
    unk: int
    eos: int | None = None
    bos: int | None = None

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def index(self) -> WordIndex:
        """Id of each word; a word that is not there has the id of ``unk``."""
        return WordIndex(self)

    @cached_property
    def digest(self) -> str:
        """sha256 of the words, each ended by a line feed: of the file vocab.txt, in hexadecimal."""
        return hashlib.sha256(self.as_file()).hexdigest()

    def as_file(self) -> bytes:
        """The words, each ended by a line feed."""
        return b"".join(word + b"\n" for word in self.words)

    def encode(self, text: str | bytes) -> npt.NDArray[np.int64]:
        """Ids of the words between white space; ends of lines are white space, and no ``eos`` is added."""
        data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
        words = data.split()
        return np.fromiter(map(self.index.__getitem__, words), dtype=np.int64, count=len(words))

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Words of ids."""
        return [self.words[i].decode("utf-8", "replace") for i in ids]


class WordIndex(dict[bytes, int]):
    """Id of each word of a vocabulary, and that of ``unk`` for every other."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__(zip(vocabulary.words, range(len(vocabulary.words)), strict=True))
        self._unk = vocabulary.unk

    def __missing__(self, word: bytes) -> int:
        return self._unk


def build_vocabulary(
    counts: Iterable[tuple[bytes, int]],
    sentences: int,
    *,
    size: int | None = None,
    min_count: int = 1,
    unk: bytes = b"<unk>",
    eos: bytes | None = b"<eos>",
) -> Vocabulary:
    """Ids by falling frequency, ties by the words' bytes; ``unk`` and ``eos`` stand where their counts put them.

    Args:
        counts: every word and how often it stands in the training split, in any order; at most ``size`` of them are
            held at a time.
        sentences: how often ``eos`` stands in it.
        size: V, with ``unk`` and ``eos``; the most frequent words are kept. None keeps all.
        min_count: keep only words that stand there at least so often.
        unk: the word that stands for all others. If the text has it already, those places count too.
        eos: the word that ends sentences; None for none.

    Raises:
        UserError: no room for a word beside ``unk`` and ``eos``, or there are no words.

    >>> build_vocabulary([(b"b", 2), (b"a", 2), (b"c", 1)], 1, size=4).words
    [b'a', b'b', b'<eos>', b'<unk>']
    """
    own = 1 if eos is None else 2
    if size is not None and size <= own:
        raise UserError(
            f"A vocabulary of {size} words has no room beside {_names(unk, eos)}.", f"Give at least {own + 1}."
        )
    total = 0

    def candidates() -> Iterator[tuple[int, bytes]]:
        nonlocal total
        for word, count in counts:
            total += count
            if word != unk and count >= min_count:
                yield -count, word

    kept = sorted(candidates()) if size is None else heapq.nsmallest(size - own, candidates())
    if not total:
        raise UserError("The training split holds no words.", "Give text with at least one word.")
    if not kept:
        raise UserError(f"No word stands in the training split {min_count} times.", "Take a smaller --min-count.")
    kept.append((-(total + sum(count for count, _ in kept)), unk))
    if eos is not None:
        kept.append((-sentences, eos))
    kept.sort()
    words = [word for _, word in kept]
    return Vocabulary(words, words.index(unk), None if eos is None else words.index(eos))


def read_vocabulary(
    path: str | Path, unk: bytes | None = None, eos: bytes | None = None, ends: bool = True
) -> Vocabulary:
    """A vocabulary file as it is: a word a line, or a word and its count; the id of a word is its line.

    Args:
        path: the file.
        unk: the word that stands for all others; None looks for ``<unk>`` and ``<UNK>``.
        eos: the word that ends sentences; None looks for ``<eos>``, ``</s>``, ``<S>`` and ``</S>``, in that order.
        ends: False where sentences shall have no end.

    Raises:
        UserError: the file cannot be read, a line is no word or not UTF-8, a word is there twice, or ``unk`` or ``eos``
            is missing.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"The vocabulary file {path} cannot be read: {error.strerror}.", "Check --vocab.") from None
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1].strip():
        lines.pop()
    if not lines:
        raise UserError(f"The vocabulary file {path} is empty.", "Give a file with a word a line.")
    seen: dict[bytes, int] = {}
    for number, line in enumerate(lines, 1):
        parts = line.split()
        problem = _line_problem(line, parts, len(lines[0].split()))
        if not problem and seen.setdefault(parts[0], number) != number:
            problem = f"the word {_shown(parts[0])} stands there already, in line {seen[parts[0]]}"
        if problem:
            raise UserError(f"{path}:{number}: {problem}.", "Give a word a line, or a word and its count, none twice.")
    words = list(seen)
    unk = _the_one(path, seen, "unknown words", "--unk", unk, UNK_NAMES)
    end = _the_one(path, seen, "the end of a sentence", "--eos", eos, EOS_NAMES) if ends else None
    return Vocabulary(words, seen[unk] - 1, None if end is None else seen[end] - 1)


def _line_problem(line: bytes, parts: Sequence[bytes], columns: int) -> str:
    try:
        line.decode()
    except UnicodeDecodeError:
        return "the line is not UTF-8"
    if not parts:
        return "the line is empty"
    if len(parts) > 2 or (len(parts) == 2 and not parts[1].isdigit()):
        return f"the line is not a word, or a word and its count: {_shown(line)}"
    return "" if len(parts) == columns else "some lines have a count and some have none"


def _the_one(
    path: str | Path, seen: dict[bytes, int], what: str, flag: str, given: bytes | None, names: Sequence[bytes]
) -> bytes:
    found = next((name for name in ((given,) if given else names) if name in seen), None)
    if found is None:
        wanted = _shown(given) if given else ", ".join(map(_shown, names))
        other = f"Name another with {flag} WORD" + (", or take --eos none." if flag == "--eos" else ", or add one.")
        raise UserError(f"The vocabulary file {path} has no word for {what} ({wanted}).", other)
    return found


def _names(unk: bytes, eos: bytes | None) -> str:
    return _shown(unk) if eos is None else f"{_shown(unk)} and {_shown(eos)}"


def _shown(word: bytes) -> str:
    text = word.decode("utf-8", "replace")
    return text if len(text) <= 60 else text[:57] + "…"
