"""Where a run stands, as every schedule sees it, and the bounds on what a schedule is told."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real


@dataclass(frozen=True)
class Progress:
    """Where a run stands before a step.

    Attributes:
        samples: samples seen before this step (skipped steps not counted).
        batch: samples of this step.
        total: samples of the whole run; infinite while unknown.

    Raises:
        ValueError: for numbers that are negative or not numbers.
    """

    samples: float
    batch: float
    total: float

    def __post_init__(self) -> None:
        if not (0 <= self.samples < math.inf and 0 < self.batch < math.inf and self.total >= 0):
            raise ValueError(
                f"{self} cannot be: samples must be at least 0, batch above 0 and total at least 0, none of them NaN."
            )


Schedule = Callable[[Progress], float]
"""(Progress) → factor of the peak rate."""


def at_least_zero(**settings: float) -> None:
    """Refuse what is not a finite number of at least 0, by name."""
    for name, value in settings.items():
        if not _finite(value) or value < 0:
            raise ValueError(f"{name} must be a number of at least 0, not {value!r}.")


def above_zero(**settings: float) -> None:
    """Refuse what is not a finite number above 0, by name."""
    for name, value in settings.items():
        if not _finite(value) or value <= 0:
            raise ValueError(f"{name} must be a number above 0, not {value!r}.")


def fraction(**settings: float) -> None:
    """Refuse what is not a number from 0 to 1, by name."""
    for name, value in settings.items():
        if not _finite(value) or not 0 <= value <= 1:
            raise ValueError(f"{name} must be a number from 0 to 1, not {value!r}.")


def rising(name: str, samples: Sequence[float]) -> None:
    """Refuse positions in the run that are not above 0 and rising."""
    if isinstance(samples, str) or not isinstance(samples, Sequence):
        raise ValueError(f"{name} must be a tuple of numbers, not {samples!r}.")
    for value in samples:
        above_zero(**{name: value})
    for earlier, later in pairwise(samples):
        if later <= earlier:
            raise ValueError(f"{name} must rise, and {later!r} comes after {earlier!r}.")


def _finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
