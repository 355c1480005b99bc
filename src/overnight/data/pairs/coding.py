"""Sentences → ids and back: words by a vocabulary, or pieces of words by byte-pair encoding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from overnight.data.words.vocabulary import Vocabulary, WordIndex, build_vocabulary
from overnight.errors import UserError

UNK, EOS, BOS = b"<unk>", b"<eos>", b"<bos>"
END_OF_WORD = "</w>"


@dataclass(frozen=True)
class Coder:
    """How the sentences of one language become ids.

    Args:
        vocabulary: words, or pieces; with ``eos`` and ``bos``.
        pieces: what the ``tokenizers`` library wrote of its byte-pair encoding; empty for words.

    >>> coder = word_coder([(b"a", 3), (b"rose", 2), (b"is", 1)], pairs=2)
    >>> coder.decode(coder.encode([b"a rose is <eos>"])[0])
    'a rose is <unk>'
    """

    vocabulary: Vocabulary
    pieces: str = ""

    def encode(self, sentences: Sequence[bytes]) -> list[list[int]]:
        """Ids of each sentence, without marks; a word that is spelt as a mark is unknown.

        Raises:
            UserError: for pieces where ``tokenizers`` is not installed.
        """
        if not self.pieces:
            index = self._index
            return [[index[word] for word in sentence.split()] for sentence in sentences]
        marks, unk = {self.vocabulary.eos, self.vocabulary.bos}, self.vocabulary.unk
        found = self._tokenizer.encode_batch([sentence.decode() for sentence in sentences])
        return [[unk if one in marks else one for one in encoding.ids] for encoding in found]

    def decode(self, ids: Iterable[int]) -> str:
        """The sentence: its words with a space between them; marks are left out."""
        marks = (self.vocabulary.eos, self.vocabulary.bos)
        words = self.vocabulary.decode(one for one in ids if one not in marks)
        if not self.pieces:
            return " ".join(words)
        return "".join(words).replace(END_OF_WORD, " ").strip()

    @cached_property
    def _index(self) -> WordIndex:
        index = WordIndex(self.vocabulary)
        index[EOS] = index[BOS] = self.vocabulary.unk
        return index

    @cached_property
    def _tokenizer(self) -> Any:
        return _library().Tokenizer.from_str(self.pieces)


def word_coder(
    counts: Iterable[tuple[bytes, int]], pairs: int, *, size: int | None = None, min_count: int = 1
) -> Coder:
    """Words by falling frequency; the last id is that of ``<bos>``.

    Args:
        counts: every word and how often it stands in the training split.
        pairs: how often ``<eos>`` stands in it.
        size: of the vocabulary, marks included; None keeps all.
        min_count: keep only words that stand there at least so often.

    Raises:
        UserError: no words, or no room for one.
    """
    own = (word for word in counts if word[0] not in (EOS, BOS))
    smaller = None if size is None else size - 1
    found = build_vocabulary(own, pairs, size=smaller, min_count=min_count, unk=UNK, eos=EOS)
    return Coder(Vocabulary([*found.words, BOS], found.unk, found.eos, len(found.words)))


def bpe_coder(sentences: Iterator[bytes], size: int) -> Coder:
    """Byte-pair encoding learned on sentences (Sennrich et al. 2016, arXiv 1508.07909), inside words.

    Args:
        sentences: the training split's; ``tokenizers`` counts their words in memory.
        size: of the vocabulary, marks included.

    Raises:
        UserError: if ``tokenizers`` is not installed, or the text has more characters than ``size``.
    """
    library = _library()
    marks = [mark.decode() for mark in (UNK, EOS, BOS)]
    tokenizer = library.Tokenizer(library.models.BPE(unk_token=marks[0], end_of_word_suffix=END_OF_WORD))
    tokenizer.pre_tokenizer = library.pre_tokenizers.WhitespaceSplit()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size, special_tokens=marks, end_of_word_suffix=END_OF_WORD, show_progress=False
    )
    tokenizer.train_from_iterator((sentence.decode() for sentence in sentences), trainer)
    found = tokenizer.get_vocab()
    words = [word.encode() for word, _ in sorted(found.items(), key=lambda item: item[1])]
    if len(words) > size:
        raise UserError(
            f"The text has more characters than a vocabulary of {size} pieces holds.",
            f"Give --bpe {len(words)} or more.",
        )
    return Coder(Vocabulary(words, found[marks[0]], found[marks[1]], found[marks[2]]), tokenizer.to_str())


def _library() -> Any:
    try:
        import tokenizers
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise UserError(
            "Pieces of words need the package tokenizers.", "Install it with: pip install 'overnight[text]'"
        ) from None
    return tokenizers
