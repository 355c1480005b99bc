"""What decides the word pieces and sentences of a corpus."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from overnight.data.ingest.settings import PrepareSettings
from overnight.errors import UserError

Sentences = Literal["auto", "line"]
_LEAST_VOCABULARY = 16


@dataclass(frozen=True)
class MaskedSettings:
    """Everything that decides the ids; equal settings and sources give equal bytes.

    Args:
        text: how documents are read and split.
        vocab_size: word pieces to learn, marks included; BERT's English one had 30,522.
        lowercase: fold case and accents, as BERT "uncased" does.
        sentences: "auto" ends them at ``.``, ``!`` and ``?`` and at line breaks; "line" at line breaks only.
        tokenizer: a ``tokenizer.json`` with word pieces to take in the place of learning one.

    Raises:
        UserError: a value out of range.
    """

    text: PrepareSettings = field(default_factory=lambda: PrepareSettings(framing="none"))
    vocab_size: int = 30_522
    lowercase: bool = True
    sentences: Sentences = "auto"
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if self.vocab_size < _LEAST_VOCABULARY:
            raise UserError(f"vocab_size is {self.vocab_size}.", f"Give at least {_LEAST_VOCABULARY}.")

    def as_json(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        values = asdict(self)
        values["text"] = self.text.as_json()
        return values
