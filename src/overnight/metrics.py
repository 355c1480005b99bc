"""Metrics of sums and counts, so that batches, ranks and restarts add up."""

import math


def bits_per_byte(nats: float, count: int) -> float:
    """Summed negative log-likelihood in nats over a count of bytes → bits per byte = nats / ln 2 / bytes.

    >>> round(bits_per_byte(math.log(256) * 10, 10), 6)
    8.0
    """
    return nats / math.log(2) / count if count else math.nan
