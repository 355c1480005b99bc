"""Reading a corpus of sentences (docs/bert.md): ids on disk, mapped; where documents start in memory."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from overnight.data.masked.wordpiece import WordPiece
from overnight.data.sharded import Offsets, ShardedCorpus, TokenStream, verify_file
from overnight.errors import UserError

TOKENIZER_FILE = "tokenizer.json"
VOCABULARY_FILE = "vocab.txt"
FILES = (TOKENIZER_FILE, VOCABULARY_FILE)
"""Names beside the shards that a corpus of sentences has."""


class SentenceStream(TokenStream):
    """The documents of one split: of each its sentences, every one ended by ``[SEP]``."""

    unit: ClassVar[str] = "word pieces"

    @cached_property
    def edges(self) -> Offsets:
        """Where each document starts, and the end of the last: eight bytes a document."""
        return np.append(self.document_starts, len(self))

    @property
    def documents(self) -> int:
        """How many there are."""
        return len(self.edges) - 1


class MaskedCorpus(ShardedCorpus):
    """A corpus folder made by ``overnight prepare --bert``.

    Args:
        folder: the folder that holds ``manifest.json``.

    Raises:
        UserError: if the folder is no such corpus, or a file is missing or of another size.

    Attributes:
        vocab_size: word pieces.
        vocabulary_digest: of the word pieces in their order.
        with_pairs: training documents that have two sentences or more.
    """

    kind: ClassVar[str] = "sentences"
    remedy: ClassVar[str] = " --bert"

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        try:
            self._about: dict[str, Any] = self.manifest["vocabulary"]
            self.vocab_size = int(self._about["size"])
            self.vocabulary_digest = str(self._about["digest"])
            self.with_pairs = int(self.manifest["splits"]["train"]["with_pairs"])
        except (KeyError, TypeError, ValueError) as error:
            path = self.folder / "manifest.json"
            raise UserError(f"{path} lacks a field of its vocabulary: {error}.", "Prepare it again.") from None

    def split(self, name: str) -> SentenceStream:
        """The documents of ``train``, ``valid`` or ``test``; there may be none."""
        return SentenceStream(self.shards(name), dtype=self.dtype)

    @cached_property
    def pieces(self) -> WordPiece:
        """Its tokenizer, after checking it against its digest.

        Raises:
            UserError: an altered file, or one whose words are not those that the ids were made with.
        """
        path = self.folder / TOKENIZER_FILE
        verify_file(path, self._about["sha256"])
        found = WordPiece(path.read_text(encoding="utf-8"), str(path))
        if found.digest != self.vocabulary_digest or found.size != self.vocab_size:
            raise UserError(f"{path} does not match the ids of the corpus.", "Prepare it again.")
        return found

    def verify(self) -> None:
        """Read every file and compare its sha256 with the manifest's."""
        super().verify()
        assert self.pieces
