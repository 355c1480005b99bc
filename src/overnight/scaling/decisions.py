"""What an automatic engine decided, when, by which numbers and why."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Value = float | int | str | tuple[float, ...] | None


@dataclass(frozen=True)
class Decision:
    """One line of the log.

    Attributes:
        step: optimizer steps tried before it.
        what: the setting that changes, or ``rollback``.
        old, new: its values.
        why: in words.
        numbers: what it was decided by.

    >>> print(Decision(120, "gain", 8.0, 5.5, "the noise scale is 1,000 samples", {"noise_scale": 1000.0}))
    update 120: gain 8 → 5.5: the noise scale is 1,000 samples [noise_scale 1000]
    """

    step: int
    what: str
    old: Value
    new: Value
    why: str
    numbers: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data; numbers that JSON has no word for are None."""
        return {
            "step": self.step,
            "what": self.what,
            "old": _plain(self.old),
            "new": _plain(self.new),
            "why": self.why,
            "numbers": {name: _plain(value) for name, value in self.numbers.items()},
        }

    def __str__(self) -> str:
        numbers = ", ".join(f"{name} {_written(value)}" for name, value in self.numbers.items())
        line = f"update {self.step:,}: {self.what} {_written(self.old)} → {_written(self.new)}: {self.why}"
        return f"{line} [{numbers}]" if numbers else line


def _plain(value: Value) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return [*value] if isinstance(value, tuple) else value


def _written(value: Value) -> str:
    if isinstance(value, tuple):
        return f"({', '.join(_written(item) for item in value)})"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
