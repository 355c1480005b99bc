"""What a check is, and what comes of it."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from overnight.doctor.optimizer.subject import Family, Subject

Status = Literal["pass", "fail", "not applicable", "information"]
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Outcome:
    """What was found.

    Args:
        status: ``pass``, ``fail``, ``not applicable`` or ``information``.
        measured: in words, with numbers.
        error: the largest relative error, where there is one.
    """

    status: Status
    measured: str
    error: float | None = None


@dataclass(frozen=True)
class Check:
    """One thing that must hold.

    Args:
        name: short, for the table.
        rule: what must hold, as a formula or a sentence, for each family.
        run: measures it.
    """

    name: str
    rule: Mapping[Family, str]
    run: Callable[[Subject], Outcome]


def within(error: float, words: str, tolerance: float = TOLERANCE) -> Outcome:
    """Pass if the relative error is within the tolerance; NaN is not.

    >>> within(2e-7, "largest relative error").measured
    'largest relative error 2.0e-07'
    """
    if math.isfinite(error):
        return Outcome("pass" if error <= tolerance else "fail", f"{words} {error:.1e}", error)
    return Outcome("fail", f"{words} is not finite", math.inf)


def factor(value: float) -> str:
    """A ratio for the table.

    >>> factor(10.0), factor(0.02512), factor(12345.6), factor(1.0000002)
    ('×10', '×0.02512', '×1.235e+04', '×1')
    """
    return f"×{value:.4g}"
