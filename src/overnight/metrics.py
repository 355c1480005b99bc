"""Metrics as (sum, count) pairs, so that batches, ranks and restarts add up."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Mean:
    """A sum and how many it is of.

    >>> (Mean(6.0, 2) + Mean(2.0, 2)).value
    2.0
    """

    total: float = 0.0
    count: int = 0

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> float:
        """The mean; NaN of nothing."""
        return self.total / self.count if self.count else math.nan


def bits_per_byte(nats: float, count: int) -> float:
    """Summed negative log-likelihood in nats over a count of bytes → bits per byte = nats / ln 2 / bytes.

    >>> round(bits_per_byte(math.log(256) * 10, 10), 6)
    8.0
    """
    return nats / math.log(2) / count if count else math.nan
