"""Tells a run that goes wrong from one that is noisy: by its losses, and by how far a step moves the weights."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from overnight.errors import UserError


class Sentry:
    """Says when a run has left the road.

    - a loss that is not finite after an update was made, or three such in a row where the loop left the update out;
    - a loss above  median + max(spread · (q₇₅ - q₂₅), rise · |median|)  of the last good ones, so many times in a row
      (at once if it is above by four times as much);
    - a relative step ‖Δw‖/‖w‖ above ``relative_step``.

    Args:
        window: good losses that are remembered; the first sixteen are only taken in.
        patience: losses above the bound in a row.
        spread: interquartile ranges.
        rise: of the median.
        relative_step: τ; at 1 a step is as large as the weights.

    Raises:
        ValueError: for settings that cannot be.

    >>> sentry = Sentry(patience=2)
    >>> [sentry.look(2.0 + 0.01 * (i % 3)) for i in range(20)] == [None] * 20
    True
    >>> sentry.look(2.4), sentry.look(2.4)
    (None, 'the loss was above 2.211 2 times in a row (2.4)')
    """

    def __init__(
        self,
        window: int = 64,
        patience: int = 3,
        spread: float = 8.0,
        rise: float = 0.1,
        relative_step: float = 1.0,
    ) -> None:
        if window < 16 or patience < 1 or not (spread > 0 and rise >= 0 and relative_step > 0):
            raise ValueError("A sentry needs a window of at least 16, a patience of at least 1 and bounds above 0.")
        self.window, self.patience = window, patience
        self.spread, self.rise, self.relative_step = spread, rise, relative_step
        self.losses: list[float] = []
        self.above = self.broken = 0
        self.bound = math.inf

    def look(self, loss: float, *, updated: bool = True, relative_step: float | None = None) -> str | None:
        """What is wrong after a step, or None.

        Args:
            loss: mean of the step.
            updated: whether the loop let the optimizer make the update.
            relative_step: where it was measured.
        """
        if not math.isfinite(loss):
            self.broken += 1
            if updated or self.broken >= 3:
                return f"the loss is {loss}" if updated else f"{self.broken} updates in a row were left out"
            return None
        if not updated:
            self.broken += 1
            return f"{self.broken} updates in a row were left out" if self.broken >= 3 else None
        self.broken = 0
        if relative_step is not None and not relative_step <= self.relative_step:
            return f"a step moved the weights by {relative_step:.3g} of their norm"
        if len(self.losses) >= 16:
            low, median, high = statistics.quantiles(self.losses, n=4, method="inclusive")
            room = max(self.spread * (high - low), self.rise * abs(median))
            self.bound = median + room
            self.above = self.above + 1 if loss > self.bound else 0
            if self.above >= self.patience or loss > self.bound + 3 * room:
                times = f" {self.above} times in a row" if self.above > 1 else ""
                return f"the loss was above {self.bound:.4g}{times} ({loss:.4g})"
        if self.above == 0:
            self.losses = [*self.losses, loss][-self.window :]
        return None

    def forget(self) -> None:
        """Losses to come are of another kind."""
        self.losses, self.above, self.broken, self.bound = [], 0, 0, math.inf

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"losses": list(self.losses), "above": self.above, "broken": self.broken}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from it."""
        losses: Sequence[float] = state["losses"]
        self.losses, self.above, self.broken = list(losses), state["above"], state["broken"]


def given_up(rollbacks: int, wrong: str, steps: int) -> UserError:
    """The error of a run that went wrong once more than it may go back."""
    return UserError(
        f"The run went wrong again after {rollbacks} rollbacks: {wrong} (step {steps}).",
        "Take a lower rate or batch, or a longer warm-up. If the data changed on purpose, say so by jumped().",
    )
