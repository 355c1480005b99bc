"""Texts as callers hand them over → framed bytes, a block of them at a time."""

from collections.abc import Iterable, Iterator
from typing import Any

from overnight.errors import UserError
from overnight.evaluate.framing import frame

Text = str | bytes

BLOCK_TEXTS = 4096
"""Texts of a block: what is sorted by length together, and what one file of a cache holds."""

BLOCK_BYTES = 64_000_000
"""A block of longer texts ends before it holds more than this."""


def framed_blocks(texts: Iterable[Text]) -> Iterator[list[bytes]]:
    """Blocks of framed texts in their order, none empty; the memory is that of one block.

    Args:
        texts: strings or bytes; also an array, or a table of one column.

    Raises:
        UserError: for a string in the place of several, a table of more columns, or a text that is none, named by its
            place.

    Example:
        >>> list(framed_blocks(["one", b"two"]))
        [[b'\\n one ', b'\\n two ']]
    """
    return _blocks(_one_column(texts))


def _blocks(texts: Iterable[Any]) -> Iterator[list[bytes]]:
    block: list[bytes] = []
    size = 0
    for index, text in enumerate(texts):
        if not isinstance(text, (str, bytes, bytearray, memoryview)):
            raise UserError(
                f"Text {index} is {text!r:.40}, a {type(text).__name__}.",
                "Give strings or bytes; drop what is missing.",
            )
        framed = frame(text if isinstance(text, str) else bytes(text))
        if block and (len(block) == BLOCK_TEXTS or size + len(framed) > BLOCK_BYTES):
            yield block
            block, size = [], 0
        block.append(framed)
        size += len(framed)
    if block:
        yield block


def _one_column(texts: Any) -> Iterable[Any]:
    if isinstance(texts, (str, bytes, bytearray)):
        raise UserError("One text was given where several are wanted.", "Give a list: [text].")
    shape = getattr(texts, "shape", None)
    if shape is None or len(shape) == 1:
        if not isinstance(texts, Iterable):
            raise UserError(f"A {type(texts).__name__} holds no texts.", "Give a list of strings or bytes.")
        return texts
    if len(shape) != 2 or shape[1] != 1:
        raise UserError(f"The texts are a table of shape {tuple(shape)}.", "Give one column, the one with the text.")
    column: Iterable[Any] = texts.iloc[:, 0] if hasattr(texts, "iloc") else texts[:, 0]
    return column
