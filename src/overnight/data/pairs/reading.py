"""Two files of which line n of one is the translation of line n of the other, read side by side."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path

from overnight.data.ingest.sources import COMPRESSIONS, Source
from overnight.data.ingest.streams import CHUNK, BrokenInputError, Stream, open_stream
from overnight.errors import UserError

MAX_LINE_BYTES = 1 << 20
_LINES_BETWEEN = 1000


def text_source(path: str | Path, split: str) -> Source:
    """A text file whatever its name says, but for .gz and .zst.

    Raises:
        UserError: it is not there, or no file.
    """
    path = str(path)
    try:
        about = os.stat(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from None
    if os.path.isdir(path):
        raise UserError(f"{path} is a folder.", "Name two text files: overnight prepare --pairs SOURCE TARGET.")
    compression = COMPRESSIONS.get(os.path.splitext(path.lower())[1], "")
    return Source(path, "txt", compression, about.st_size, about.st_mtime_ns, split)


def read_lines(source: Source, on_bytes: Callable[[int], None] = lambda count: None) -> Iterator[bytes]:
    """The lines of a text file, each as its words with a space between them, in constant memory.

    Args:
        source: of ``text_source``.
        on_bytes: told how many more bytes of the file were read.

    Raises:
        UserError: a line is not UTF-8 or over a mebibyte, or the file is damaged; it names file and line.
    """
    number, told = 0, 0
    with open_stream(source) as stream, io.BufferedReader(stream, CHUNK) as file:
        while True:
            try:
                line = file.readline(MAX_LINE_BYTES + 1)
            except BrokenInputError as error:
                raise UserError(
                    f"{source.path} after line {number:,}: {error.reason}.", "Get the file once more."
                ) from None
            if not line:
                _tell(stream, told, on_bytes)
                return
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise UserError(
                    f"{source.path}:{number}: the line has more than {MAX_LINE_BYTES:,} bytes.",
                    "Give a sentence a line.",
                )
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            try:
                line.decode()
            except UnicodeDecodeError:
                raise UserError(f"{source.path}:{number}: the line is not UTF-8.", "Convert the file.") from None
            if number % _LINES_BETWEEN == 0:
                told = _tell(stream, told, on_bytes)
            yield b" ".join(line.split())


def _tell(stream: Stream, told: int, on_bytes: Callable[[int], None]) -> int:
    consumed = stream.consumed()
    on_bytes(consumed - told)
    return consumed


def read_pairs(
    sources: tuple[Source, Source], on_bytes: Callable[[int], None] = lambda count: None
) -> Iterator[tuple[bytes, bytes]]:
    """(line, its translation), in order; of either the words, with a space between them.

    Raises:
        UserError: as ``read_lines``; and where one file has more lines, which is known at the end.
    """
    counts = [0, 0]
    with ExitStack() as stack:
        sides = []
        for source in sources:
            lines = read_lines(source, on_bytes)
            stack.callback(lines.close)  # type: ignore[attr-defined]
            sides.append(lines)
        for first, second in zip_longest(*sides):
            counts[0] += first is not None
            counts[1] += second is not None
            if first is not None and second is not None:
                yield first, second
    if counts[0] != counts[1]:
        raise UserError(
            f"{sources[0].path} has {counts[0]:,} lines and {sources[1].path} has {counts[1]:,}.",
            "Line n of one must be the translation of line n of the other.",
        )
