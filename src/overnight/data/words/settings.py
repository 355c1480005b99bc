"""What decides the ids of a corpus of words."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from overnight.data.ingest.settings import SPLITS, PrepareSettings
from overnight.errors import UserError

EmptyLines = Literal["drop", "eos"]
NONE = "none"


@dataclass(frozen=True)
class WordSettings:
    """Everything that decides the vocabulary and the ids; equal settings and sources give equal bytes.

    Words are what stands between ASCII white space; a line of text, or of a record's text field, is a sentence. The
    vocabulary is counted on the training split.

    Args:
        vocab_size: V, with ``unk`` and ``eos``: the most frequent words. For files of ids: ids must be below it.
        min_count: keep only words that stand in the training split at least so often.
        vocab_file: take this vocabulary as it is instead of building one.
        unk: the word that stands for all others; None is ``<unk>``, or what a vocabulary file has.
        eos: the word added after each sentence; None is ``<eos>``, or what a vocabulary file has; "none" adds nothing.
        empty_lines: "drop" and count them, or keep each as an ``eos`` of its own.
        ids: the sources are lines of ids, ``bos … bos id … id eos``, instead of text.
        unk_id: in files of ids, the id that stands for all other words.
        bos_id: the id that lines may begin with, any number of times; not kept, since nobody predicts it.
        eos_id: the id that every line ends with.
        split: shares of train, valid and test by a hash of each sentence, for splits without files of their own; None
            is 98, 1, 1 where no split has, and all train where one has.
        text: field, quoting, ``on_error``, sizes of shards and of the longest record.

    Raises:
        UserError: a value out of range, or two that exclude each other.
    """

    vocab_size: int | None = None
    min_count: int = 1
    vocab_file: str | None = None
    unk: str | None = None
    eos: str | None = None
    empty_lines: EmptyLines = "drop"
    ids: bool = False
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    split: tuple[float, float, float] | None = None
    text: PrepareSettings = field(default_factory=lambda: PrepareSettings(document="line"))

    def __post_init__(self) -> None:
        if self.vocab_file is not None and (self.vocab_size is not None or self.min_count != 1):
            raise UserError(
                "A vocabulary file is used as it is; it was given with a size or a smallest count.",
                "Leave --vocab-size and --min-count away, or --vocab.",
            )
        for name, least in (("vocab_size", 2), ("min_count", 1), ("unk_id", 0), ("bos_id", 0), ("eos_id", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} is {value}.", f"Give at least {least}.")
        if self.ids and self.min_count != 1:
            raise UserError("Ids that someone made cannot be cut by --min-count.", "Leave it away.")
        if self.ids and len({self.unk_id, self.bos_id, self.eos_id}) < 3:
            raise UserError(
                f"unk_id, bos_id and eos_id are {self.unk_id}, {self.bos_id} and {self.eos_id}.",
                "Give three different ids.",
            )
        for name in ("unk", "eos"):
            word = getattr(self, name)
            if word is not None and (not word or word.split() != [word]):
                raise UserError(f"{name} is {word!r}, not one word.", "Give a word without white space.")
        if self.unk is not None and self.unk == self.eos:
            raise UserError(f"unk and eos are both {self.unk!r}.", "Give two different words.")

    def shares(self, heldout: Sequence[str]) -> tuple[float, float, float]:
        """Shares of train, valid and test for sentences without a split, given the splits that have files.

        Raises:
            UserError: the split is not three shares, or leaves none.
        """
        shares = self.split or ((1, 0, 0) if heldout else (98, 1, 1))
        shares = replace(self.text, split=shares).split
        train, valid, test = (0.0 if name in heldout else share for name, share in zip(SPLITS, shares, strict=True))
        if train + valid + test <= 0:
            raise UserError("The split leaves no share for train.", "Give it one, such as --split 95,5,0.")
        return train, valid, test

    @property
    def ends(self) -> bool:
        """Whether sentences are ended by a word."""
        return self.eos != NONE

    @property
    def unk_word(self) -> bytes | None:
        """``unk`` as bytes."""
        return None if self.unk is None else self.unk.encode()

    @property
    def eos_word(self) -> bytes | None:
        """``eos`` as bytes, None where it is not named."""
        return None if self.eos is None or not self.ends else self.eos.encode()

    def as_json(self) -> dict[str, Any]:
        """Plain values for a manifest; a vocabulary file by the digest of its content.

        Raises:
            UserError: the vocabulary file cannot be read.
        """
        own = {**asdict(self), **self.text.as_json()}
        del own["text"], own["vocab_file"]
        own["split"] = None if self.split is None else list(self.split)
        own["vocab_sha256"] = None
        if self.vocab_file is not None:
            try:
                own["vocab_sha256"] = hashlib.sha256(Path(self.vocab_file).read_bytes()).hexdigest()
            except OSError as error:
                raise UserError(
                    f"The vocabulary file {self.vocab_file} cannot be read: {error.strerror}.", "Check --vocab."
                ) from None
        return own
