"""What a page's scores are and how they are written: bits per byte, or the perplexity of words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from overnight.report import units
from overnight.report.entry import Entry


@dataclass(frozen=True)
class Measure:
    """The lower, the better.

    Attributes:
        title: at the beginning of a sentence.
        short: in the head of a column.
        counted: what is scored and trained on.
        unit: of a count, after its prefix.
        write: a value.
        interval: its ends, or nothing where one is None.
    """

    title: str
    short: str
    counted: str
    unit: str
    write: Callable[[float | None], str]
    interval: Callable[[float | None, float | None], str]


def _perplexity_interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{units.plain(low, 4)}–{units.plain(high, 4)}"


BITS = Measure("Bits per byte", "bits/byte", "bytes", "B", units.bits, units.interval)
PERPLEXITY = Measure("Perplexity", "perplexity", "words", "", lambda value: units.plain(value, 4), _perplexity_interval)


def measure_of(entries: Sequence[Entry]) -> Measure:
    """Perplexity where every run is of words, otherwise bits per byte."""
    return PERPLEXITY if entries and all(entry.record.of_words for entry in entries) else BITS
