"""Reading a corpus of words (docs/corpus-format.md): ids on disk, mapped; the vocabulary and its counts in memory."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from overnight.data.sharded import Offsets, ShardedCorpus, TokenStream, check_size, verify_file
from overnight.data.words.vocabulary import Vocabulary
from overnight.errors import UserError

VOCABULARY_FILE = "vocab.txt"
COUNTS_FILE = "counts.bin"
_BLOCK = 1 << 20


class WordStream(TokenStream):
    """The ids of one split as one long run, each sentence ended by ``eos``; ``documents`` are sentences."""

    unit: ClassVar[str] = "words"
    reset_units: ClassVar[tuple[str, ...]] = ("never", "sentence", "shard")

    def resets(self, unit: str) -> Offsets:
        """Positions at which the state is zeroed before the word is read.

        For ``sentence`` and ``shard`` that is the last word of the sentence before, its ``eos``, so that a sentence's
        first word is predicted from ``eos`` alone; the stream being a circle, the first one's is the last of all.

        Raises:
            UserError: ``unit`` is none of ``reset_units``.
        """
        starts = self.document_starts if unit == "sentence" else super().resets(unit)
        return np.unique((starts - 1) % max(1, len(self)))

    def take(self, positions_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Ids at positions of any order, int64, of the positions' shape."""
        flat = positions_N.ravel()
        out = np.empty(flat.shape, dtype=np.int64)
        shard_N = np.searchsorted(self._edges, flat, side="right") - 1
        for index in np.unique(shard_N):
            here = shard_N == index
            out[here] = self.shards[index].data[flat[here] - self._edges[index]]
        return out.reshape(positions_N.shape)

    def counts(self, vocab_size: int) -> npt.NDArray[np.int64]:
        """How often each id stands in the stream, int64 [V].

        Raises:
            UserError: an id is not below V.
        """
        total = np.zeros(vocab_size, dtype=np.int64)
        left = len(self)
        for shard in self.shards:
            size = min(left, shard.size)
            left -= size
            for start in range(0, size, _BLOCK):
                # read and not mapped: pages of a mapped file stay with the process
                offset, count = start * self.dtype.itemsize, min(_BLOCK, size - start)
                ids = np.fromfile(shard.path, self.dtype, count, offset=offset)
                found = np.bincount(ids, minlength=vocab_size)
                if len(found) > vocab_size:
                    raise UserError(
                        f"{shard.path} holds the id {len(found) - 1:,}; its vocabulary has {vocab_size:,} words.",
                        "Prepare the corpus again.",
                    )
                total += found
        return total


class WordCorpus(ShardedCorpus):
    """A corpus folder made by ``overnight prepare --words``.

    Args:
        folder: the folder that holds ``manifest.json``.

    Raises:
        UserError: if the folder is no corpus of words, or a file is missing, altered or does not fit to the others.

    Attributes:
        vocab_size: V.
        unk: id of the word that stands for all others.
        eos: id that ends a sentence; None where none does.
        bos: id that fills the context before a sentence; None where ``eos`` does.

    Example:
        ``corpus = WordCorpus.open("ptb")``; then ``corpus.vocab_size``, ``corpus.split("train").read(0, 20)``.
    """

    kind: ClassVar[str] = "words"
    remedy: ClassVar[str] = " --words"

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        try:
            about: dict[str, Any] = self.manifest["vocabulary"]
            self.vocab_size: int = about["size"]
            self.unk: int = about["unk"]
            self.eos: int | None = about["eos"]
            self.bos: int | None = about["bos"]
            self.vocabulary_digest: str = about["sha256"]
            self._counts_digest: str = about["counts_sha256"]
        except (KeyError, TypeError) as error:
            path = self.folder / "manifest.json"
            raise UserError(f"{path} lacks a field of its vocabulary: {error}.", "Prepare it again.") from None
        check_size(self.folder / COUNTS_FILE, 8 * self.vocab_size)

    @property
    def fill(self) -> int:
        """The id that stands in a context before its sentence: ``bos``; where there is none ``eos``, or ``unk``."""
        return next(i for i in (self.bos, self.eos, self.unk) if i is not None)

    @classmethod
    def open(cls, folder: str | Path) -> WordCorpus:
        """The corpus in a folder."""
        return cls(folder)

    def split(self, name: str) -> WordStream:
        """The ids of ``train``, ``valid`` or ``test``; it may be empty."""
        return WordStream(self.shards(name), dtype=self.dtype)

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The words, read when first asked for and compared with their digest."""
        path = self.folder / VOCABULARY_FILE
        verify_file(path, self.vocabulary_digest)
        words = path.read_bytes().split(b"\n")[:-1]
        if len(words) != self.vocab_size:
            raise UserError(f"{path} has {len(words):,} words, not {self.vocab_size:,}.", "Prepare the corpus again.")
        return Vocabulary(words, self.unk, self.eos, self.bos)

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """How often each id stands in the training split, int64 [V]."""
        path = self.folder / COUNTS_FILE
        verify_file(path, self._counts_digest)
        return np.fromfile(path, dtype="<i8").astype(np.int64)

    @cached_property
    def words(self) -> list[str]:
        """Word of each id."""
        return self.vocabulary.decode(range(self.vocab_size))

    def verify(self) -> None:
        """Read every file and compare its sha256 with the manifest's."""
        super().verify()
        verify_file(self.folder / VOCABULARY_FILE, self.vocabulary_digest)
        verify_file(self.folder / COUNTS_FILE, self._counts_digest)
