"""What decides the ids of a corpus of pairs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from overnight.errors import UserError

_LEAST = {"vocab_size": 4, "bpe": 4, "min_count": 1, "max_length": 1}


@dataclass(frozen=True)
class PairSettings:
    """Everything that decides the vocabularies and the ids; equal settings and sources give equal bytes.

    Args:
        vocab_size: words of each vocabulary, ``<unk>``, ``<eos>`` and ``<bos>`` among them; None keeps all.
        min_count: keep only words that stand in the training split at least so often.
        bpe: pieces of words instead of words, so many in a vocabulary (Sennrich et al. 2016); needs ``tokenizers``.
        joint: one vocabulary for both languages, as GNMT's.
        max_length: pairs with a longer side, in ids without marks, are left out of the training split.
        shard_mb: bound of a shard in megabytes.

    Raises:
        UserError: a value out of range, or two that exclude each other.
    """

    vocab_size: int | None = None
    min_count: int = 1
    bpe: int | None = None
    joint: bool = False
    max_length: int = 50
    shard_mb: float = 256

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name} is {value}.", f"Give at least {least}.")
        if not self.shard_mb > 0:
            raise UserError(f"shard_mb is {self.shard_mb}.", "Give a number above 0.")
        if self.bpe is not None and (self.vocab_size is not None or self.min_count != 1):
            raise UserError(
                "Pieces of words have a vocabulary of --bpe N; it was given with a size or a smallest count of words.",
                "Leave --vocab-size and --min-count away, or --bpe.",
            )

    @property
    def shard_bytes(self) -> int:
        """``shard_mb`` in bytes."""
        return max(1, int(self.shard_mb * 1e6))

    def as_json(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return asdict(self)
