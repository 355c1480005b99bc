"""Texts with a unit's value after every character, for heat maps."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

_LONGEST = 600


def characters(framed: bytes) -> list[tuple[str, int]]:
    """The characters of UTF-8 and the index of each one's last byte; a byte that belongs to none is U+FFFD.

    >>> characters("é\\n".encode() + b"\\xff")
    [('é', 1), ('\\n', 2), ('\\ufffd', 3)]
    """
    found: list[tuple[str, int]] = []
    start = 0
    while start < len(framed):
        for size in range(1, 5):
            try:
                text = framed[start : start + size].decode()
                break
            except UnicodeDecodeError:
                continue
        else:
            text, size = "\ufffd", 1
        start += size
        found.append((text, start - 1))
    return found


def choose_texts(values_N: Any, labels_N: Ids, probabilities_NK: Any, lengths: Sequence[int]) -> list[int]:
    """Texts worth looking at: of each class that with the highest and the lowest value among those classified rightly,
    and the most confident mistake; short ones if there are any.

    Args:
        values_N: a unit's value after each text.
        labels_N: true classes.
        probabilities_NK: what a classifier gave them.
        lengths: of the texts, in characters.

    Returns:
        Indices, by class, without repeats.
    """
    values, predicted = np.asarray(values_N), probabilities_NK.argmax(axis=1)
    confidence = probabilities_NK.max(axis=1)
    short = np.array([40 <= length <= 300 for length in lengths])
    chosen: list[int] = []
    for k in np.unique(labels_N)[:4]:
        for keep in ((predicted == k), (predicted != k)):
            inside = np.flatnonzero((labels_N == k) & keep)
            inside = inside[short[inside]] if short[inside].any() else inside
            if len(inside) and keep[inside[0]] and predicted[inside[0]] == k:
                chosen += [int(inside[values[inside].argmax()]), int(inside[values[inside].argmin()])]
            elif len(inside):
                chosen.append(int(inside[confidence[inside].argmax()]))
    return list(dict.fromkeys(chosen))


def heat_of(trace: Callable[[str], Any], text: str) -> dict[str, Any]:
    """{"text": characters as one string, "values": one each}; the end of a long text is left out.

    Args:
        trace: text → an object with `bytes` and `values`, as `ByteModel.trace` gives it.
        text: any.
    """
    found = trace(text)
    shown = characters(bytes(found.bytes))[:_LONGEST]
    return {
        "text": "".join(character for character, _ in shown),
        "values": [round(float(found.values[last]), 4) for _, last in shown],
        "cut": len(characters(bytes(found.bytes))) - len(shown),
    }
