"""What decides which ratings are trained on, and the check that it makes sense."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from overnight.errors import UserError

Duplicates = Literal["error", "last", "mean"]
Split = Literal["time", "leave-last", "random"]


@dataclass(frozen=True)
class RatingSettings:
    """How ratings are read and split; equal settings and sources give equal splits.

    Args:
        columns: names of the columns of user, item, rating and, if there are any, times; none guesses them.
        duplicates: of several ratings of one item by one user: ``error`` names the first of them, ``last`` keeps the
            one of the latest time (the one read last, if they have none or the same), ``mean`` takes their mean.
        scale: lowest and highest rating there may be; None takes any finite number.
        split: ``time``: what is rated last is held out, whoever rates; ``leave-last``: each user's last ratings are;
            ``random``: each rating by a coin.
        valid, test: held-out shares of the ratings; with ``leave-last`` the numbers of ratings of each user.
        by: ``user``: a row is a user's ratings, and new users are answered from theirs alone; ``item``: a row is what
            all users gave one item. What is held out is the same.
        seed: of the coins, which also cut the time that is held out into valid and test.

    Raises:
        UserError: a value out of range.

    >>> RatingSettings(split="time", valid=0.05, test=0.05).heldout
    0.1
    """

    columns: tuple[str, ...] = ()
    duplicates: Duplicates = "error"
    scale: tuple[float, float] | None = None
    split: Split = "random"
    valid: float = 0.0
    test: float = 0.1
    seed: int = 0
    by: Literal["user", "item"] = "user"

    def __post_init__(self) -> None:
        if self.columns and len(self.columns) not in (3, 4):
            raise UserError(
                f"{len(self.columns)} columns were named.", "Name those of user, item, rating and, if any, time."
            )
        for name, known in (
            ("duplicates", ("error", "last", "mean")),
            ("split", ("time", "leave-last", "random")),
            ("by", ("user", "item")),
        ):
            if getattr(self, name) not in known:
                raise UserError(f"{name}={getattr(self, name)!r} is not known.", f"Choose one of {', '.join(known)}.")
        if self.scale is not None:
            low, high = self.scale
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise UserError(f"A scale from {low} to {high} cannot be.", "Give the lowest and the highest rating.")
        if self.split == "leave-last":
            if any(value != int(value) or value < 0 for value in (self.valid, self.test)):
                raise UserError(
                    f"leave-last with valid={self.valid} and test={self.test} cannot be.",
                    "Give how many ratings of each user are held out: whole numbers.",
                )
        elif not (self.valid >= 0 and self.test >= 0 and self.heldout < 1):
            raise UserError(
                f"valid={self.valid} and test={self.test} cannot be held out.", "Give shares that leave some to train."
            )

    @property
    def heldout(self) -> float:
        """The share, or the number of each user, that is not trained on."""
        return self.valid + self.test

    def as_json(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        plain = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
