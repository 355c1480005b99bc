"""What a page's scores are and how they are written: bits per byte, the perplexity of words, accuracy, or RMSE."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from overnight.report import units
from overnight.report.entry import Entry


@dataclass(frozen=True)
class Measure:
    """How a score is named and written.

    Attributes:
    title: at the beginning of a sentence.
    short: in the head of a column.
    counted: what is scored and trained on.
    unit: of a count, after its prefix.
    write: a value.
    interval: its ends, or nothing where one is None.
    of_text: what is scored is text.
    axis: unit on an axis.
    higher_is_better: otherwise the lower, the better.
    """

    title: str
    short: str
    counted: str
    unit: str
    write: Callable[[float | None], str]
    interval: Callable[[float | None, float | None], str]
    of_text: bool = True
    axis: str = ""
    higher_is_better: bool = False

    @property
    def name(self) -> str:
        """The title within a sentence."""
        return self.title if self.title.isupper() else self.title.lower()

    @property
    def better(self) -> str:
        """Which way is better, in words."""
        return "higher is better" if self.higher_is_better else "lower is better"


def _perplexity_interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{units.plain(low, 4)}–{units.plain(high, 4)}"


def _percent(value: float | None) -> str:
    return units.NONE if value is None else f"{value:.2f} %"


def _percent_interval(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.2f}–{high:.2f} %"


BITS = Measure("Bits per byte", "bits/byte", "bytes", "B", units.bits, units.interval)
PERPLEXITY = Measure("Perplexity", "perplexity", "words", "", lambda value: units.plain(value, 4), _perplexity_interval)


ACCURACY = Measure(
    "Accuracy", "accuracy", "images", "", _percent, _percent_interval, of_text=False, axis="%", higher_is_better=True
)
RMSE = Measure("RMSE", "RMSE", "ratings", "", units.bits, units.interval, of_text=False)
MEASURES = {"perplexity": PERPLEXITY, "accuracy": ACCURACY, "rmse": RMSE}


def measure_of(entries: Sequence[Entry]) -> Measure:
    """The runs' own where they have one in common, otherwise bits per byte."""
    metrics = {entry.record.metric for entry in entries}
    found = MEASURES.get(metrics.pop(), BITS) if len(metrics) == 1 else BITS
    counted = {entry.record.counted for entry in entries}
    if found is not ACCURACY or len(counted) > 1:
        return found
    if "questions" in counted:
        return replace(found, title="F1", short="F1", counted="questions")
    return replace(found, counted=counted.pop())
