"""A warm-up in steps that the relative step may hold or hasten, and that begins again after a jump."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

RISING, FLAT, READINGS = 1.25, 1.1, 4


@dataclass
class WarmUp:
    """A linear rise from ``start`` to 1 over so many steps, as LEGW keeps them.

    What it watches is the relative step per unit of the rate, s = ‖Δw‖ / (‖w‖ lr), which is the update's own size,
    whatever the rate. While s rises by more than a quarter against the readings before, the rate is held; it is never
    held for more steps than the rise has. If s is flat within 10 % over four readings, and the noise scale is measured,
    the rest goes twice as fast.

    Attributes:
        steps: of the rise; 0 for none.
        start: the factor it starts from.
        progress: steps gone, a held one not counted, a hastened one twice.
        held: steps in which the rate was held.
        speed: 0, 1 or 2 steps a step.
        seen: the last readings of s.
        adjustable: the relative step may hold or hasten it.
    """

    steps: int
    start: float = 0.0
    progress: float = 0.0
    held: int = 0
    speed: int = 1
    seen: list[float] = field(default_factory=list)
    adjustable: bool = True

    @property
    def over(self) -> bool:
        """Whether the factor is 1."""
        return self.progress + 1 >= self.steps

    @property
    def factor(self) -> float:
        """On the rate of the step to come: counted at its end, so that the first step moves."""
        if self.steps == 0:
            return 1.0
        return self.start + (1.0 - self.start) * min(1.0, (self.progress + 1) / self.steps)

    def advance(self) -> None:
        """A step was made."""
        self.held += self.speed == 0
        if self.held >= self.steps:
            self.speed = max(self.speed, 1)
        self.progress += self.speed

    def judge(self, s: float, measured: bool) -> bool:
        """Take in a reading of s; whether the speed changes by it."""
        before, old = self.seen, self.speed
        self.seen = [*before, s][-READINGS:]
        if not self.adjustable or self.over or not before:
            return False
        self.speed = 1
        if s > RISING * sum(before) / len(before) and self.held < self.steps:
            self.speed = 0
        elif measured and len(self.seen) == READINGS and max(self.seen) <= FLAT * min(self.seen):
            self.speed = 2
        return self.speed != old

    @property
    def said(self) -> str:
        """Why the speed is what it is."""
        return (
            "held: the relative step rises faster than the rate",
            "goes on: the relative step per rate rises no more",
            "twice as fast: the relative step per rate is flat, and the noise scale is measured",
        )[self.speed]

    def state_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "WarmUp":
        """What ``state_dict`` said."""
        return cls(**{**state, "seen": list(state["seen"])})
