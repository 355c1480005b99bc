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
        right = _preferred(np.flatnonzero((labels_N == k) & (predicted == k)), short)
        wrong = _preferred(np.flatnonzero((labels_N == k) & (predicted != k)), short)
        chosen += [int(right[values[right].argmax()]), int(right[values[right].argmin()])] if len(right) else []
        chosen += [int(wrong[confidence[wrong].argmax()])] if len(wrong) else []
    return list(dict.fromkeys(chosen))


def _preferred(indices: Ids, short_N: NDArray[np.bool_]) -> Ids:
    return indices[short_N[indices]] if short_N[indices].any() else indices


def heat_of(trace: Callable[[str], Any], text: str) -> dict[str, Any]:
    """{"text": characters as one string, "values": one each}; the end of a long text is left out.

    Args:
        trace: text → an object with `bytes` and `values`, as `ByteModel.trace` gives it.
        text: any.
    """
    found = trace(text)
    all_of_them = characters(bytes(found.bytes))
    shown = all_of_them[:_LONGEST]
    return {
        "text": "".join(character for character, _ in shown),
        "values": [round(float(found.values[last]), 4) for _, last in shown],
        "cut": len(all_of_them) - len(shown),
    }
