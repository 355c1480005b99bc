"""Sentences of the sources, whole lines in blocks of about a megabyte, by split."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from overnight.data.ingest.batches import content_digest, split_bounds
from overnight.data.ingest.faults import Faults, too_long
from overnight.data.ingest.piece_runner import Job, Work, count_lines, segment_documents
from overnight.data.ingest.pieces import Segment
from overnight.data.ingest.sources import Source
from overnight.data.ingest.streams import CHUNK, BrokenInputError, open_stream
from overnight.data.ingest.text import line_blocks

_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Block:
    """Neighbouring sentences of one split.

    Args:
        split: train, valid or test.
        text: UTF-8, each sentence ended by a line feed.
        source: where they are from.
        index: of the source.
        lines: line of each sentence in the file, from 1; empty where it has none.
    """

    split: str
    text: bytes
    source: Source
    index: int
    lines: Sequence[int] = ()

    def place(self, sentence: int) -> str:
        """Where a sentence stands, for a message."""
        return f"{self.source.path}:{self.lines[sentence]}" if self.lines else self.source.path


def sentence_blocks(work: Work, job: Job, faults: Faults, progress: Callable[[int], None]) -> Iterator[Block]:
    """The sentences of a piece, those of a source in order.

    Args:
        work: segments with their sources.
        job: settings and the shares of the splits.
        faults: told of lines that are not UTF-8 or too long, and of malformed records.
        progress: called with the bytes of the sources read since the last call.

    Raises:
        UserError: an unreadable source, or malformed lines where these stop the run.
    """
    bounds = split_bounds(job.shares)
    for segment, source in work:
        told = 0
        try:
            for text, line, consumed in _texts(segment, source, job, faults):
                read = min(consumed, segment.bytes or consumed)
                progress(read - told)
                told = read
                lines: Sequence[int] = range(line, line + text.count(b"\n")) if line else ()
                text, lines = _valid(text, lines, source, faults)
                split = source.split or (bounds[0][1] if len(bounds) == 1 else "")
                if split and text:
                    yield Block(split, text, source, segment.source, lines)
                elif text:
                    yield from _shared_out(Block("", text, source, segment.source, lines), bounds)
        except BrokenInputError as error:
            note = error.reason if faults.stop else f"{error.reason}; the rest of the file is left out"
            faults.add(source.path, error.line, note)
        progress(segment.bytes - told if segment.bytes else 0)


def _texts(segment: Segment, source: Source, job: Job, faults: Faults) -> Iterator[tuple[bytes, int, int]]:
    """Whole lines, the number of the first (0 where lines have none) and how far the source is read."""
    if source.format != "txt":
        held: list[bytes] = []
        size, consumed = 0, 0
        for text, read in segment_documents(segment, source, job.settings, faults, None):
            held.append(text)
            size += len(text)
            if size >= CHUNK or len(held) >= 4096:
                consumed = read()
                yield b"\n".join(held) + b"\n", 0, consumed
                held, size = [], 0
        if held:
            yield b"\n".join(held) + b"\n", 0, consumed
        return
    limit = job.settings.max_document_bytes
    line = count_lines(source, segment.start) + 1
    with open_stream(source, segment.start, segment.stop) as stream:
        for lines in line_blocks(stream, limit, cut=False):
            count = len(lines)
            if line == 1:
                lines[0] = lines[0].removeprefix(_MARK)
            if max(map(len, lines)) > limit:
                for number, found in enumerate(lines):
                    if len(found) > limit:
                        faults.add(source.path, line + number, too_long(limit))
                # an empty line in its place keeps the numbers of those that follow
                lines = [found if len(found) <= limit else b"" for found in lines]
            yield b"\n".join(lines) + b"\n", line, stream.consumed()
            line += count


def _valid(text: bytes, lines: Sequence[int], source: Source, faults: Faults) -> tuple[bytes, Sequence[int]]:
    """The text, and the numbers of its lines, without the lines that are not UTF-8."""
    try:
        text.decode()
        return text, lines
    except UnicodeDecodeError:
        kept: list[bytes] = []
        numbers: list[int] = []
    for index, found in enumerate(text.split(b"\n")[:-1]):
        try:
            found.decode()
            kept.append(found + b"\n")
            numbers += lines[index : index + 1]
        except UnicodeDecodeError as error:
            shown = found[max(0, error.start - 20) : error.end + 20].decode("utf-8", "backslashreplace").strip()
            faults.add(source.path, lines[index] if lines else None, f"the line is not UTF-8 (… {shown} …)")
    return b"".join(kept), numbers


def _shared_out(block: Block, bounds: Sequence[tuple[bytes, str]]) -> Iterator[Block]:
    """Sentences by the split that a hash of their bytes puts them into."""
    parts: dict[str, tuple[list[bytes], list[int]]] = {split: ([], []) for _, split in bounds}
    for index, line in enumerate(block.text.split(b"\n")[:-1]):
        digest = content_digest(line)
        kept, numbers = parts[next(split for bound, split in bounds if digest < bound)]
        kept.append(line + b"\n")
        numbers += block.lines[index : index + 1]
    for split, (kept, numbers) in parts.items():
        if kept:
            yield Block(split, b"".join(kept), block.source, block.index, numbers)
