"""Metrics of sums and counts, so that batches, ranks and restarts add up."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from overnight.errors import UserError


def bits_per_byte(nats: float, count: int) -> float:
    """Summed negative log-likelihood in nats over a count of bytes → bits per byte = nats / ln 2 / bytes.

    >>> round(bits_per_byte(math.log(256) * 10, 10), 6)
    8.0
    """
    return nats / math.log(2) / count if count else math.nan


def perplexity(nats: float, count: int) -> float:
    """Summed negative log-likelihood in nats over a count of tokens → perplexity = exp(nats / tokens).

    What stands for a token (whether the end of a sentence is one) is the corpus's to say: docs/word_models.md.

    >>> round(perplexity(math.log(10_000) * 7, 7), 6)
    10000.0
    """
    if not count:
        return math.nan
    mean = nats / count
    return math.exp(mean) if mean < 700 else math.inf


def rmse(squared: float, count: int) -> float:
    """Summed squared error over a count of ratings → its root mean.

    >>> rmse(8.0, 2)
    2.0
    """
    return math.sqrt(squared / count) if count else math.nan


@dataclass(frozen=True)
class Metric:
    """What a run is judged by.

    Attributes:
        name: key in the run folder's records.
        title: in words.
        counted: what the targets are.
        of: (summed nats or squared errors, count) → value; None where it does not follow from the loss.
        higher_is_better: otherwise the lower, the better.
    """

    name: str
    title: str
    counted: str
    of: Callable[[float, int], float] | None = None
    higher_is_better: bool = False

    def better(self, value: float, than: float) -> bool:
        """Whether a value is strictly better than another; one that is not finite never is.

        >>> METRICS["accuracy"].better(0.99, 0.98), METRICS["perplexity"].better(99.0, 98.0)
        (True, False)
        """
        if not math.isfinite(value):
            return False
        return value > than if self.higher_is_better else value < than


METRICS = {
    "bits_per_byte": Metric("bits_per_byte", "bits per byte", "bytes", bits_per_byte),
    "perplexity": Metric("perplexity", "perplexity", "words", perplexity),
    "accuracy": Metric("accuracy", "accuracy", "images", higher_is_better=True),
    "masked_accuracy": Metric("masked_accuracy", "accuracy of hidden pieces", "pieces", higher_is_better=True),
    "text_accuracy": Metric("text_accuracy", "accuracy", "texts", higher_is_better=True),
    "f1": Metric("f1", "F1", "questions", higher_is_better=True),
    "rmse": Metric("rmse", "RMSE", "ratings", rmse),
}
"""By name: a task says which is its own (``metric``)."""


def metric_of(task: Any) -> Metric:
    """What a task's runs are judged by.

    Raises:
        UserError: if it names a metric that there is not.
    """
    name = getattr(task, "metric", "bits_per_byte")
    if name not in METRICS:
        raise UserError(f"There is no metric {name!r}.", f"A task's metric is one of {', '.join(METRICS)}.")
    return METRICS[name]
