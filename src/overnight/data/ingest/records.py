"""Text of JSON records: orjson for lines, the standard library's scanner for arrays and for what orjson refuses."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from overnight.data.ingest.faults import Faults, too_long
from overnight.data.ingest.streams import CHUNK, BrokenInputError, Stream
from overnight.data.ingest.text import line_blocks

_KINDS = {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
_SPACE = re.compile(r"[ \t\n\r]*")


def field_bytes(record: Any, field: str) -> bytes | str:
    """The field's text as bytes, or as ``str`` the reason why there is none."""
    if type(record) is not dict:
        return f"the record is {_kind(record)}, not an object"
    text = record.get(field)
    if type(text) is not str:
        if field not in record:
            names = ", ".join(map(repr, list(record)[:10])) or "none"
            return f"the record has no field {field!r} (its fields: {names})".encode("utf-8", "replace").decode()
        return f"the field {field!r} is {_kind(text)}, not a string"
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", _RAW)


def line_records(
    stream: Stream, limit: int, faults: Faults, path: str, lines_before: Callable[[], int]
) -> Iterator[tuple[int, Any]]:
    """Line number in the stream and value of every line of JSON; malformed lines go to ``faults``, blank ones nowhere.

    Args:
        stream: where from.
        limit: longest line in bytes.
        faults: told of malformed lines.
        path: name for messages.
        lines_before: lines of the file before the stream begins; called when a line must be named.
    """
    import orjson

    number = 0
    for lines in line_blocks(stream, limit, cut=False):
        for line in lines:
            number += 1
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                if not line.strip():
                    continue
                if len(line) > limit:
                    faults.add(path, lines_before() + number, too_long(limit))
                    continue
                try:
                    value = _lenient(line)
                except ValueError:
                    reason = f"not valid JSON ({error.msg}, column {error.colno})"
                    faults.add(path, lines_before() + number, reason)
                    continue
            else:
                if len(line) > limit:
                    faults.add(path, lines_before() + number, too_long(limit))
                    continue
            yield number, value


def holds_lines(stream: Stream) -> bool:
    """Whether the first line of a ``.json`` file is an object by itself, which makes it a file of JSON lines."""
    import orjson

    head = b""
    while len(head) < CHUNK and b"\n" not in head.lstrip() and (more := stream.read(CHUNK)):
        head += more
    line, _, _ = head.lstrip().partition(b"\n")
    try:
        return type(orjson.loads(line)) is dict
    except orjson.JSONDecodeError:
        return False


def document_records(stream: Stream, limit: int) -> Iterator[tuple[int, Any]]:
    """Line and value of each element of an array of JSON, or of each of several values one after another.

    Raises:
        BrokenInputError: the text is not JSON from some place on, or one element is longer than ``limit`` characters.
    """
    scanner = _Scanner(stream, limit)
    if scanner.peek() != "[":
        while scanner.peek():
            yield scanner.line, scanner.value()
        return
    scanner.take()
    if scanner.peek() == "]":
        scanner.take()
    else:
        while True:
            scanner.peek()
            yield scanner.line, scanner.value()
            mark = scanner.peek()
            if mark not in (",", "]"):
                raise BrokenInputError("not valid JSON (no comma or bracket after an element)", scanner.line)
            scanner.take()
            if mark == "]":
                break
    if scanner.peek():
        raise BrokenInputError("not valid JSON (something follows the array)", scanner.line)


class _Scanner:
    """JSON values out of a buffer that never holds much more than one of them."""

    def __init__(self, stream: Stream, limit: int) -> None:
        self._stream, self._limit = stream, limit
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._buffer, self._at, self._ended = "", 0, False
        self.line = 1
        self._fill(CHUNK)
        if self._buffer.startswith("\ufeff"):
            self._at = 1

    def peek(self) -> str:
        """The next character that is not white space, or "" at the end."""
        while True:
            self._advance(_SPACE.match(self._buffer, self._at).end())  # type: ignore[union-attr]
            if self._at < len(self._buffer):
                return self._buffer[self._at]
            if self._ended:
                return ""
            self._fill(CHUNK)

    def take(self) -> None:
        """Pass over one character."""
        self._at += 1

    def value(self) -> Any:
        """The value that begins here."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self._buffer, self._at)
                # A number that touches the end of the buffer may go on behind it.
                whole = end < len(self._buffer) or self._ended or not isinstance(value, float)
                if whole and end - self._at <= self._limit:
                    self._advance(end)
                    return value
                problem = ""
            except RecursionError:
                raise BrokenInputError("not valid JSON (nested too deeply)", self.line) from None
            except ValueError as error:
                problem = getattr(error, "msg", None) or str(error)
            held = len(self._buffer) - self._at
            if held > self._limit:
                raise BrokenInputError(too_long(self._limit) + ", or not valid JSON", self.line)
            if self._ended:
                raise BrokenInputError(f"not valid JSON ({problem})", self.line)
            # Doubling keeps the cost of scanning a long value again within a constant factor.
            self._fill(max(CHUNK, held), at_least=held if held >= CHUNK else 1)

    def _advance(self, to: int) -> None:
        self.line += self._buffer.count("\n", self._at, to)
        self._at = to

    def _fill(self, size: int, at_least: int = 1) -> None:
        data = self._stream.read(size)
        while data and len(data) < at_least and (more := self._stream.read(size - len(data))):
            data += more
        self._ended = not data
        self._buffer = self._buffer[self._at :] + self._decode(data, self._ended)
        self._at = 0


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a JSON value")


# A number's value is never used, and int() of a very long one is slow and limited.
_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_int=float)


def _lenient(line: bytes) -> Any:
    """Read what orjson refuses though it is JSON: bytes that are not UTF-8, lone surrogates, a byte order mark."""
    if line.isascii() and b"\\u" not in line:
        raise ValueError("orjson was right")
    text = line.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    try:
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _kind(value: Any) -> str:
    return _KINDS.get(type(value), "a number")


_RAW = "overnight-raw-bytes"


def _raw_bytes(error: UnicodeError) -> tuple[bytes, int]:
    """Undecodable bytes come back as they were; other lone surrogates become the three bytes UTF-8 would give them."""
    assert isinstance(error, UnicodeEncodeError)
    wrong = error.object[error.start : error.end]
    out = b"".join(
        bytes([ord(c) - 0xDC00]) if 0xDC80 <= ord(c) <= 0xDCFF else c.encode("utf-8", "surrogatepass") for c in wrong
    )
    return out, error.end


codecs.register_error(_RAW, _raw_bytes)
