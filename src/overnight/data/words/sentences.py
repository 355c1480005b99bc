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
        line: line of its first sentence, from 1; 0 where the sentences are not neighbouring lines of a file.
    """

    split: str
    text: bytes
    source: Source
    index: int
    line: int = 0

    def place(self, wanted: Callable[[bytes], bool]) -> str:
        """Where the first sentence that is ``wanted`` stands, for a message."""
        for number, line in enumerate(self.text.split(b"\n")):
            if wanted(line):
                return f"{self.source.path}:{self.line + number}" if self.line else self.source.path
        return self.source.path


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
                text, line = _valid(text, line, source, segment, faults)
                split = source.split or (bounds[0][1] if len(bounds) == 1 else "")
                if split and text:
                    yield Block(split, text, source, segment.source, line)
                elif text:
                    for name, part in _shared_out(text, bounds).items():
                        yield Block(name, part, source, segment.source)
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


def _valid(text: bytes, line: int, source: Source, segment: Segment, faults: Faults) -> tuple[bytes, int]:
    """The text without the lines that are not UTF-8."""
    try:
        text.decode()
        return text, line
    except UnicodeDecodeError:
        kept = []
    for number, found in enumerate(text.split(b"\n")[:-1]):
        try:
            found.decode()
            kept.append(found + b"\n")
        except UnicodeDecodeError as error:
            shown = found[max(0, error.start - 20) : error.end + 20].decode("utf-8", "backslashreplace").strip()
            faults.add(source.path, line + number if line else None, f"the line is not UTF-8 (… {shown} …)")
    return b"".join(kept), 0


def _shared_out(text: bytes, bounds: Sequence[tuple[bytes, str]]) -> dict[str, bytes]:
    """Sentences by the split that a hash of their bytes puts them into."""
    parts: dict[str, list[bytes]] = {split: [] for _, split in bounds}
    for line in text.split(b"\n")[:-1]:
        digest = content_digest(line)
        parts[next(split for bound, split in bounds if digest < bound)].append(line + b"\n")
    return {split: b"".join(lines) for split, lines in parts.items() if lines}
