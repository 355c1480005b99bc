"""What decides the bytes of a corpus, and the check that it makes sense."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from overnight.errors import UserError

SPLITS = ("train", "valid", "test")

Document = Literal["auto", "file", "line", "blank-line"]
Quoting = Literal["auto", "double", "none"]
Framing = Literal["newline", "none", "reviews"]
OnError = Literal["stop", "skip"]


@dataclass(frozen=True)
class PrepareSettings:
    """Everything that decides which bytes stand in a corpus; equal settings and sources give equal bytes.

    Args:
        text_field: field or column that holds the text; None guesses it where one field holds strings.
        document: what one document of a ``.txt`` file is: the whole file, each line, or each block between blank lines;
            "auto" is blocks where the only source is a text file, all of which would else fall into one split, and
            files otherwise.
        quoting: whether a double quote encloses fields; "auto" is "double" for CSV and "none" for TSV.
        strip_tags: replace HTML tags by a space.
        unescape_html: replace entities (``&amp;``) by the characters they stand for; after ``strip_tags``.
        collapse_whitespace: each run of white space becomes one space, none at either end; after ``unescape_html``.
        framing: bytes around each document, since nothing else separates documents: "newline" ends it with ``\\n``;
            "none" adds nothing; "reviews" is ``"\\n " + unescaped text with \\n → space, stripped + " "``
            (Radford et al. 2017, arXiv 1704.01444).
        split: shares of train, valid and test, in any unit; a document's split is a function of its bytes alone.
        dedup: drop exact duplicates (of the final bytes), the first one in reading order stays.
        on_error: "stop" at the first malformed record, or "skip", count and list them.
        shard_mb: upper bound of a shard file, 10⁶ bytes (a longer document has a shard of its own).
        max_document_mb: longest document, 10⁶ bytes: longer text files are cut, longer records are malformed.

    Raises:
        UserError: a value out of range.

    >>> PrepareSettings(split=(9, 1, 0)).max_document_bytes
    16000000
    """

    text_field: str | None = None
    document: Document = "auto"
    quoting: Quoting = "auto"
    strip_tags: bool = False
    unescape_html: bool = False
    collapse_whitespace: bool = False
    framing: Framing = "newline"
    split: tuple[float, float, float] = (98, 1, 1)
    dedup: bool = False
    on_error: OnError = "stop"
    shard_mb: float = 256
    max_document_mb: float = 16

    def __post_init__(self) -> None:
        shares = self.split
        if len(shares) != 3 or not all(math.isfinite(s) and s >= 0 for s in shares) or sum(shares) <= 0:
            raise UserError(
                f"split is {','.join(map(str, shares))}, not three shares of train, valid and test.",
                "Give three numbers that are not negative and not all zero, such as 98,1,1.",
            )
        if not 0 < self.max_document_mb <= 64:
            raise UserError(
                f"max_document_mb is {self.max_document_mb}, out of range.",
                "Give a number above 0 and up to 64, the bound that keeps memory small.",
            )
        if not 0 < self.shard_mb < math.inf:
            raise UserError(f"shard_mb is {self.shard_mb}, out of range.", "Give a positive number of megabytes.")

    @property
    def shard_bytes(self) -> int:
        """Upper bound of a shard file in bytes."""
        return max(1, int(self.shard_mb * 1e6))

    @property
    def max_document_bytes(self) -> int:
        """Longest document in bytes."""
        return max(1, int(self.max_document_mb * 1e6))

    def as_json(self) -> dict[str, Any]:
        """Plain values for a manifest; ``from_json`` reads them back."""
        return {**asdict(self), "split": list(self.split)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> PrepareSettings:
        """The settings that ``as_json`` wrote."""
        return cls(**{**values, "split": tuple(values["split"])})
