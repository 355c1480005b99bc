"""Documents of plain text files."""

from __future__ import annotations

from collections.abc import Iterator

from overnight.data.ingest.settings import Document
from overnight.data.ingest.streams import CHUNK, Stream


def line_blocks(stream: Stream, limit: int, cut: bool) -> Iterator[list[bytes]]:
    """Lines without their ``\\n``, many at a time.

    Args:
        stream: where from.
        limit: longest line in bytes.
        cut: a longer line comes as several of at most ``limit`` bytes; otherwise its first ``limit + 1`` bytes come,
            for the caller to see that it is too long, and the rest of it is passed over.
    """
    skipping = False
    begun: list[bytes] = []  # joined at its end: a pipe gives little at a time, and a line may be long
    held = 0
    while chunk := stream.read(CHUNK):
        if b"\n" not in chunk and not skipping and held + len(chunk) <= limit:
            begun.append(chunk)
            held += len(chunk)
            continue
        lines = b"".join((*begun, chunk)).split(b"\n")
        rest = lines.pop()
        if skipping and lines:
            del lines[0]
            skipping = False
        elif skipping:
            rest = b""
        if len(rest) > limit:
            if cut:
                *parts, rest = cut_bytes(rest, limit)
                lines += parts
            else:
                lines.append(rest[: limit + 1])
                rest, skipping = b"", True
        begun, held = [rest], len(rest)
        if lines:
            if cut and max(map(len, lines)) > limit:
                lines = [part for line in lines for part in cut_bytes(line, limit)]
            yield lines
    rest = b"".join(begun)
    if rest:
        yield cut_bytes(rest, limit) if cut else [rest]


def cut_bytes(data: bytes, limit: int) -> list[bytes]:
    """Parts of at most ``limit`` bytes that join to ``data``, cut between UTF-8 characters where there are any.

    >>> cut_bytes("aé".encode() * 2, 3)
    [b'a\\xc3\\xa9', b'a\\xc3\\xa9']
    """
    parts = []
    start = 0
    while len(data) - start > limit:
        end = start + limit
        for back in range(min(4, limit)):
            if data[end - back] & 0xC0 != 0x80:
                end -= back
                break
        parts.append(data[start:end])
        start = end
    parts.append(data[start:])
    return parts


def text_documents(stream: Stream, document: Document, limit: int) -> Iterator[bytes]:
    """Documents of a text file; none is longer than ``limit`` bytes.

    A longer file is cut after the last line that ends in the second half of the limit, or between two characters where
    none does; a longer line between two characters; a longer block after a line.
    """
    if document == "line":
        for lines in line_blocks(stream, limit, cut=True):
            for line in lines:
                yield line[:-1] if line.endswith(b"\r") else line
    elif document == "blank-line":
        yield from _blocks(stream, limit)
    else:
        yield from _whole(stream, limit)


def _whole(stream: Stream, limit: int) -> Iterator[bytes]:
    held = bytearray()
    cut_once = False
    while chunk := stream.read(CHUNK):
        held += chunk
        while len(held) > limit:
            end = held.rfind(b"\n", limit // 2, limit) + 1 or len(cut_bytes(bytes(held[: limit + 1]), limit)[0])
            yield bytes(held[:end])
            del held[:end]
            cut_once = True
    if held or not cut_once:
        yield bytes(held)


def _blocks(stream: Stream, limit: int) -> Iterator[bytes]:
    block: list[bytes] = []
    size = 0
    for lines in line_blocks(stream, limit, cut=True):
        for line in lines:
            blank = not line or line.isspace()
            if block and (blank or size + len(line) > limit):
                yield b"\n".join(block).rstrip(b"\r\n")
                block, size = [], 0
            if not blank:
                block.append(line)
                size += len(line) + 1
    if block:
        yield b"\n".join(block).rstrip(b"\r\n")
