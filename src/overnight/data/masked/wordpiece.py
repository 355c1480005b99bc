"""Word pieces: learned with ``tokenizers``, or read from a ``tokenizer.json``; always with BERT's five marks."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overnight.errors import UserError

PAD, UNK, CLS, SEP, MASK = MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUES = "##"
_MOST_CHARACTERS = 1000


class WordPiece:
    """A vocabulary of word pieces (Schuster & Nakajima 2012; Devlin et al. 2019, arXiv 1810.04805).

    Args:
        content: what the ``tokenizers`` library wrote: a ``tokenizer.json``.
        name: of the file, for messages.

    Raises:
        UserError: ``tokenizers`` is missing, or it is no tokenizer of word pieces with BERT's marks.

    Example:
        >>> pieces = learn(lambda: iter(["a rose is a rose", "roses rise"]), size=30)
        >>> pieces.decode(pieces.encode(["A rose is"])[0])
        'a rose is'
    """

    def __init__(self, content: str, name: str = "The tokenizer") -> None:
        library = _library()
        try:
            self._tokenizer = library.Tokenizer.from_str(content)
        except Exception as error:  # the library raises bare ones
            raise UserError(f"{name} is no tokenizer: {error}.", "Give a tokenizer.json.") from None
        if type(self._tokenizer.model).__name__ != "WordPiece":
            kind = type(self._tokenizer.model).__name__
            raise UserError(
                f"{name} holds {kind}, not word pieces.", "Give one of WordPiece, or leave --tokenizer out."
            )
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.content = content
        vocabulary: dict[str, int] = self._tokenizer.get_vocab()
        missing = [mark for mark in MARKS if mark not in vocabulary]
        if missing:
            raise UserError(f"{name} lacks {', '.join(missing)}.", "BERT needs [PAD] [UNK] [CLS] [SEP] [MASK].")
        self.pad, self.unk, self.cls, self.sep, self.mask = (vocabulary[mark] for mark in MARKS)
        self.size = max(vocabulary.values()) + 1
        self._vocabulary = vocabulary

    @property
    def digest(self) -> str:
        """sha256 of its words in the order of their ids: equal for tokenizers that a model can be shared by."""
        return hashlib.sha256("\n".join(self.words).encode()).hexdigest()

    @cached_property
    def words(self) -> list[str]:
        """The pieces, by id; an id without one has the empty word."""
        words = [""] * self.size
        for word, index in self._vocabulary.items():
            words[index] = word
        return words

    @cached_property
    def continues(self) -> npt.NDArray[np.bool_]:
        """Which pieces go on with the word before them."""
        return np.array([word.startswith(CONTINUES) and len(word) > len(CONTINUES) for word in self.words])

    @cached_property
    def ordinary(self) -> npt.NDArray[np.int64]:
        """Ids that are no marks, rising."""
        marks = {self.pad, self.unk, self.cls, self.sep, self.mask}
        return np.array([index for index, word in enumerate(self.words) if word and index not in marks])

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without marks around it."""
        return [self._own(coded.ids) for coded in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], list[tuple[int, int]]]]:
        """Ids of each text, and from which to before which of its characters each piece goes."""
        found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [(self._own(coded.ids), coded.offsets) for coded in found]

    def _own(self, ids: list[int]) -> list[int]:
        """A mark that is spelt out in a text is the text's, not ours."""
        marks = {self.pad, self.cls, self.sep, self.mask}
        return [self.unk if one in marks else one for one in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, marks left out."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def learn(texts: Callable[[], Iterator[str]], size: int, *, lowercase: bool = True) -> WordPiece:
    """Word pieces of a text, the same for the same text.

    It is read twice: for its characters, and for its words, which ``tokenizers`` counts in memory: that grows with
    different words only.

    Args:
        texts: gives the training split's, from the beginning at each call.
        size: pieces, marks included; fewer where the text has no more.
        lowercase: fold case and accents.

    Raises:
        UserError: if ``tokenizers`` is not installed, or the text has more characters than ``size``.
    """
    library = _library()
    tokenizer = _untrained(library, lowercase)
    alphabet = _alphabet(tokenizer, texts())
    inner = [one for one in alphabet if len(tokenizer.pre_tokenizer.pre_tokenize_str("a" + one)) == 1]
    # the library numbers what goes on with a word in the order of a hash, and its ties fall by these numbers: so they
    # are given to it, in order
    given = [*MARKS, *(CONTINUES + one for one in inner)]
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=given,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=CONTINUES,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    vocabulary = tokenizer.get_vocab()
    if len(vocabulary) > size:
        raise UserError(
            f"The text has more characters than a vocabulary of {size:,} pieces holds.",
            f"Take {len(vocabulary):,} or more.",
        )
    made = _untrained(library, lowercase, vocabulary)
    made.add_special_tokens(list(MARKS))
    return WordPiece(made.to_str())


def _untrained(library: Any, lowercase: bool, vocabulary: dict[str, int] | None = None) -> Any:
    tokenizer = library.Tokenizer(library.models.WordPiece(vocabulary or {}, unk_token=UNK))
    tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = library.decoders.WordPiece(prefix=CONTINUES)
    return tokenizer


def _alphabet(tokenizer: Any, texts: Iterator[str]) -> list[str]:
    """The most frequent characters of a text, in order; the others are unknown."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.normalizer.normalize_str(text))
    frequent = sorted(counts, key=lambda one: (-counts[one], one))
    return sorted(one for one in frequent[:_MOST_CHARACTERS] if not one.isspace())


def read_tokenizer(path: str | Path) -> WordPiece:
    """Word pieces from a ``tokenizer.json``.

    Raises:
        UserError: as ``WordPiece``, or the file cannot be read.
    """
    try:
        return WordPiece(Path(path).read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"{path} cannot be read: {reason}.", "Give a tokenizer.json.") from None


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.decoders
        import tokenizers.models
        import tokenizers.normalizers
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise UserError(
            "Word pieces need the package tokenizers.", "Install it: pip install 'overnight[bert]'"
        ) from None
    return tokenizers
