"""Sampled texts made fit to show: whatever bytes a model wrote, nothing breaks the page or hides."""

from collections.abc import Sequence
from dataclasses import dataclass

from overnight.report.read import Sample

_LAST, _EARLIER = 3, 4
_CHARACTERS, _EARLIER_CHARACTERS = 6000, 500

# Control characters become their visible pictures; tab and line feed stay.
_PICTURES = {code: 0x2400 + code for code in range(32) if code not in (9, 10)} | {0x7F: 0x2421}
_PICTURES |= dict.fromkeys(range(128, 160), 65533)


@dataclass(frozen=True)
class Text:
    """One sampled text as shown; `cut` is how many characters were left out at its end."""

    step: int
    temperature: float | None
    prompt: str
    text: str
    cut: int


@dataclass(frozen=True)
class Texts:
    """A run's last samples and a few from earlier on, in the order of their steps."""

    last: list[Text]
    earlier: list[Text]


def visible(text: str) -> str:
    """The text with a picture for each control character, and nothing that UTF-8 cannot hold.

    >>> visible("a\\x1b")
    'a␛'
    """
    return text.encode("utf-8", "replace").decode().translate(_PICTURES)


def texts_of(samples: Sequence[Sample]) -> Texts:
    """The last samples in full, and at most a handful evenly chosen from before them, short."""
    ordered = sorted(samples, key=lambda sample: sample.step)
    last = [sample for sample in ordered if sample.step == ordered[-1].step][-_LAST:]
    before: dict[int, Sample] = {}
    for sample in ordered:
        if sample.step < ordered[-1].step:
            before.setdefault(sample.step, sample)
    first_each = list(before.values())
    count = min(_EARLIER, len(first_each))
    chosen = [first_each[i * len(first_each) // count] for i in range(count)]
    return Texts([_shown(s, _CHARACTERS) for s in last], [_shown(s, _EARLIER_CHARACTERS) for s in chosen])


def _shown(sample: Sample, limit: int) -> Text:
    return Text(
        step=sample.step,
        temperature=sample.temperature,
        prompt=sample.prompt.translate(_PICTURES),
        text=sample.text[:limit].translate(_PICTURES),
        cut=max(0, len(sample.text) - limit),
    )
