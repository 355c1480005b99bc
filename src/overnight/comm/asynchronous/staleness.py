"""How old the weights were of which a gradient is."""

from collections import Counter
from collections.abc import Sequence

from overnight.errors import UserError


class Staleness:
    """Decides which gradients are too old, how far old ones slow the rate, and counts them.

        τ = updates made between a worker's pull and its push

    Args:
        bound: gradients with τ above it are refused; None refuses none.
        slows: the rate of an update is divided by 1 + τ, the mean τ of the pushes that it is made of.

    Attributes:
        refused: how many were.

    Raises:
        UserError: for a bound below 0.

    >>> staleness = Staleness(bound=2, slows=True)
    >>> [staleness.admits(tau) for tau in (0, 2, 3, 0)], staleness.refused
    ([True, True, False, True], 1)
    >>> staleness.factor([1, 3]), staleness.histogram()
    (0.3333333333333333, {0: 2, 2: 1})
    """

    def __init__(self, bound: int | None, slows: bool = False) -> None:
        if bound is not None and (isinstance(bound, bool) or not isinstance(bound, int) or bound < 0):
            raise UserError(f"max_staleness={bound!r} cannot be.", "Give a whole number from 0 on, or None.")
        self.bound, self.slows, self.refused = bound, slows, 0
        self._counts: Counter[int] = Counter()

    def admits(self, tau: int) -> bool:
        """Whether a gradient of this staleness is taken; it is counted."""
        if self.bound is not None and tau > self.bound:
            self.refused += 1
            return False
        self._counts[tau] += 1
        return True

    def factor(self, taus: Sequence[int]) -> float:
        """What the rate of an update is multiplied by."""
        return len(taus) / (len(taus) + sum(taus)) if self.slows and taus else 1.0

    def histogram(self) -> dict[int, int]:
        """τ → how many gradients were taken at it, by rising τ."""
        return dict(sorted(self._counts.items()))
