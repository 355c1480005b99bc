"""A text in the terminal, every character on a background that tells a unit's value: orange below zero, blue above."""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence

from overnight.cli.terminal import without_controls

_RESET = "\x1b[0m"
_ZERO, _BELOW, _ABOVE = (238, 238, 238), (176, 76, 0), (0, 84, 166)  # told apart by the colour-blind, too


def characters(text: bytes, values: Sequence[float]) -> Iterator[tuple[str, float]]:
    """Each character with the value after its last byte; bytes that are no UTF-8 come as U+FFFD, one each.

    >>> list(characters("é!".encode(), [1.0, 2.0, 3.0]))
    [('é', 2.0), ('!', 3.0)]
    """
    start = 0
    while start < len(text):
        size = next((size for size in range(1, 5) if _decodes(text[start : start + size])), None)
        shown = "\ufffd" if size is None else text[start : start + size].decode()
        start += size or 1
        yield shown, values[start - 1]


def _decodes(data: bytes) -> bool:
    try:
        return bool(data.decode())
    except UnicodeDecodeError:
        return False


def background(value: float, scale: float) -> str:
    """The escape sequence of a colour, full at ±``scale`` and beyond, none at 0.

    >>> background(0.0, 1.0), background(-2.0, 1.0)
    ('\\x1b[30;48;2;238;238;238m', '\\x1b[97;48;2;176;76;0m')
    """
    share = max(-1.0, min(1.0, value / scale)) if scale else 0.0
    full = _BELOW if share < 0 else _ABOVE
    red, green, blue = (round(zero + abs(share) * (end - zero)) for zero, end in zip(_ZERO, full, strict=True))
    return f"\x1b[{97 if abs(share) > 0.6 else 30};48;2;{red};{green};{blue}m"


def heat_lines(cells: Iterable[tuple[str, float]], scale: float, width: int) -> Iterator[str]:
    """Lines of at most ``width`` columns, coloured; a line feed is shown as ↵, other controls as U+FFFD.

    Args:
        cells: of ``characters``.
        scale: the value of full colour.
        width: columns, at least 2.
    """
    line, used = "", 0
    for character, value in cells:
        shown = {"\n": "↵", "\t": "→"}.get(character) or without_controls(character)
        columns = 0 if unicodedata.combining(shown) else 1 + (unicodedata.east_asian_width(shown) in "WF")
        if used + columns > width:
            yield line + _RESET
            line, used = "", 0
        line += f"{background(value, scale)}{shown}"
        used += columns
    if line:
        yield line + _RESET
