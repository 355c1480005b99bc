"""Reading a corpus of pairs (docs/translation.md): ids on disk, mapped; where each sentence is in memory."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from overnight.data.pairs.coding import Coder
from overnight.data.sharded import Offsets, Shard, ShardedCorpus, verify_file
from overnight.data.words.corpus import WordStream
from overnight.data.words.vocabulary import Vocabulary
from overnight.errors import UserError

SIDES = ("source", "target")
HELD_OUT = ("valid", "test")
_BLOCK = 1 << 22


def vocabulary_file(side: str) -> str:
    """Name of a language's words, one a line."""
    return f"{side}.vocab.txt"


def pieces_file(side: str) -> str:
    """Name of a language's byte-pair encoding."""
    return f"{side}.bpe.json"


def text_file(split: str, side: str) -> str:
    """Name of a held-out split's own text, which BLEU is computed against."""
    return f"{split}.{side}.txt"


FILES = (
    *(name(side) for side in SIDES for name in (vocabulary_file, pieces_file)),
    *(text_file(split, side) for split in HELD_OUT for side in SIDES),
)
"""Names beside the shards that a corpus of pairs may have."""


class PairStream(WordStream):
    """The pairs of one split; ``documents`` are pairs, ``source… eos target… eos``.

    Args:
        shards, limit, dtype: see ``TokenStream``.
        eos: ids that end a source and a target.
    """

    unit: ClassVar[str] = "words"

    def __init__(
        self, shards: list[Shard], limit: int | None = None, dtype: str = "u1", *, eos: tuple[int, int] = (0, 0)
    ) -> None:
        super().__init__(shards, limit, dtype)
        self.eos = eos

    @property
    def pairs(self) -> int:
        """How many pairs there are."""
        return len(self.starts) - 1

    @cached_property
    def starts(self) -> Offsets:
        """Where each pair starts, and the end of the last: eight bytes a pair."""
        return np.append(self.document_starts, len(self))

    @cached_property
    def source_lengths(self) -> Offsets:
        """Ids of each source, its ``eos`` included."""
        lengths = np.empty(self.pairs, dtype=np.int64)
        first = 0
        while first < self.pairs:  # some pairs at a time, so that memory grows with their number alone
            beyond = int(np.searchsorted(self.starts, self.starts[first] + _BLOCK, side="right")) - 1
            last = max(first + 1, min(self.pairs, beyond))
            ids = self.read(int(self.starts[first]), int(self.starts[last] - self.starts[first]))
            ends = np.flatnonzero(ids == self.eos[0]) + self.starts[first]
            starts = self.starts[first:last]
            lengths[first:last] = ends[np.searchsorted(ends, starts)] - starts + 1
            first = last
        return lengths

    @cached_property
    def target_lengths(self) -> Offsets:
        """Ids of each target, its ``eos`` included."""
        return np.diff(self.starts) - self.source_lengths


class PairCorpus(ShardedCorpus):
    """A corpus folder made by ``overnight prepare --pairs``.

    Args:
        folder: the folder that holds ``manifest.json``.

    Raises:
        UserError: if the folder is no corpus of pairs, or a file is missing or of another size.

    Attributes:
        vocab_sizes: words of the source's and the target's vocabulary.
        joint: whether the two are one.
    """

    kind: ClassVar[str] = "pairs"
    remedy: ClassVar[str] = " --pairs"

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        try:
            self._about: dict[str, Any] = self.manifest["vocabulary"]
            self._texts: dict[str, str] = self.manifest["texts"]
            self.joint: bool = self._about["joint"]
            self.vocab_sizes: tuple[int, int] = tuple(self._about[side]["size"] for side in SIDES)
            self.eos: tuple[int, int] = tuple(self._about[side]["eos"] for side in SIDES)
            self.bos: int = self._about["target"]["bos"]
            digests = "".join(self._about[side]["sha256"] for side in SIDES)
        except (KeyError, TypeError) as error:
            path = self.folder / "manifest.json"
            raise UserError(f"{path} lacks a field of its vocabulary: {error}.", "Prepare it again.") from None
        self.vocabulary_digest = hashlib.sha256(digests.encode()).hexdigest()

    def split(self, name: str) -> PairStream:
        """The pairs of ``train``, ``valid`` or ``test``; there may be none."""
        return PairStream(self.shards(name), dtype=self.dtype, eos=self.eos)

    def coder(self, side: str) -> Coder:
        """Words and ids of ``source`` or ``target``, after checking them against their digests."""
        about = self._about[side]
        path = self.folder / vocabulary_file(side)
        verify_file(path, about["sha256"])
        pieces = ""
        if about["pieces_sha256"]:
            verify_file(self.folder / pieces_file(side), about["pieces_sha256"])
            pieces = (self.folder / pieces_file(side)).read_text(encoding="utf-8")
        words = path.read_bytes().split(b"\n")[:-1]
        return Coder(Vocabulary(words, about["unk"], about["eos"], about["bos"]), pieces)

    def text(self, split: str, side: str) -> list[str]:
        """The sentences of a held-out split as they were given, in the order of its pairs.

        Raises:
            UserError: for the training split, whose text is not kept, or an altered file.
        """
        name = text_file(split, side)
        if name not in self._texts:
            raise UserError(f"{self.folder} keeps no text of its split {split}.", "Choose valid or test.")
        verify_file(self.folder / name, self._texts[name])
        return (self.folder / name).read_text(encoding="utf-8").split("\n")[:-1]

    def verify(self) -> None:
        """Read every file and compare its sha256 with the manifest's."""
        super().verify()
        for side in SIDES:
            self.coder(side)
        for name, digest in self._texts.items():
            verify_file(self.folder / name, digest)
