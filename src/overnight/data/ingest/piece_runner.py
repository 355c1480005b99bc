"""One piece of work: read, clean, frame, split. The same code in this process and in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from overnight.data.ingest.batches import Batch, BatchBuilder, split_bounds
from overnight.data.ingest.clean import document_maker
from overnight.data.ingest.csv_rows import csv_texts
from overnight.data.ingest.faults import Fault, Faults, too_long
from overnight.data.ingest.parquet_rows import parquet_texts
from overnight.data.ingest.pieces import Segment
from overnight.data.ingest.records import document_records, field_bytes, line_records
from overnight.data.ingest.settings import PrepareSettings
from overnight.data.ingest.sources import Source
from overnight.data.ingest.streams import BrokenInputError, Stream, open_stream
from overnight.data.ingest.text import text_documents

_PROGRESS_DOCUMENTS = 4096

Work = Sequence[tuple[Segment, Source]]


@dataclass(frozen=True)
class Job:
    """What all pieces of a run share.

    Args:
        settings: with the text field resolved.
        shares: of train, valid and test for documents that are split by hash.
    """

    settings: PrepareSettings
    shares: tuple[float, float, float]


@dataclass
class PieceReport:
    """What came out of a piece: documents by index of the source, and what did not become a document."""

    documents: dict[int, int] = field(default_factory=dict)
    invalid_utf8: int = 0
    empty: int = 0
    skipped: int = 0
    errors: list[Fault] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` reads them back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> PieceReport:
        """The report that ``as_json`` wrote, after a passage through JSON."""
        return cls(**{**values, "documents": {int(k): v for k, v in values["documents"].items()}})


def run_piece(
    work: Work,
    job: Job,
    emit: Callable[[Batch], None],
    progress: Callable[[int], None],
    stdin: Any = None,
) -> PieceReport:
    """Read the segments of a piece.

    Args:
        work: segments of a piece with their sources.
        job: the settings.
        emit: called with each batch of documents.
        progress: called now and then with the bytes of the sources read since the last call.
        stdin: what to read for "-".

    Raises:
        UserError: an unreadable or malformed source.
    """
    faults = Faults(job.settings.on_error == "stop")
    report = PieceReport()
    bounds = split_bounds(job.shares)
    only = bounds[0][1] if len(bounds) == 1 else ""
    builder = BatchBuilder(bounds, job.settings.dedup, emit)
    make = document_maker(job.settings)
    add = builder.add
    before = ""
    for segment, source in work:
        if source.split != before:
            # What is held out is read first and must come first to whoever drops duplicates.
            builder.flush()
            before = source.split
        split = source.split or only
        count = told = 0
        try:
            for text, consumed in segment_documents(segment, source, job.settings, faults, stdin):
                document = make(text)
                if not document:
                    report.empty += 1
                    continue
                if not document.isascii():
                    try:
                        document.decode()
                    except UnicodeDecodeError:
                        report.invalid_utf8 += 1
                add(document, split)
                count += 1
                if not count % _PROGRESS_DOCUMENTS:
                    read = min(consumed(), segment.bytes or consumed())
                    progress(read - told)
                    told = read
        except BrokenInputError as error:
            note = error.reason if faults.stop else f"{error.reason}; the rest of the file is left out"
            faults.add(source.path, error.line, note)
        report.documents[segment.source] = report.documents.get(segment.source, 0) + count
        progress(segment.bytes - told if segment.bytes else 0)
    builder.flush()
    report.skipped, report.errors = faults.count, faults.listed
    return report


def segment_documents(
    segment: Segment, source: Source, settings: PrepareSettings, faults: Faults, stdin: Any
) -> Iterator[tuple[bytes, Callable[[], int]]]:
    """Texts of a segment, each with a function that tells how far into it the reading is."""
    if source.format != "txt" and settings.text_field is None:
        # Nobody named a field and no source had a record to guess it from.
        return
    if source.format == "parquet":
        groups = None if segment.stop is None else (segment.start, segment.stop)
        for text in parquet_texts(source, settings, groups, faults, stdin):
            yield text, int
        return
    if source.format in ("csv", "tsv"):
        yield from csv_texts(source, settings, faults, stdin)
        return
    with open_stream(source, segment.start, segment.stop, stdin) as stream:
        for text in _stream_texts(stream, segment, source, settings, faults):
            yield text, stream.consumed


def _stream_texts(
    stream: Stream, segment: Segment, source: Source, settings: PrepareSettings, faults: Faults
) -> Iterator[bytes]:
    limit = settings.max_document_bytes
    if source.format == "txt":
        yield from text_documents(stream, settings.document, limit)
        return

    @cache
    def lines_before() -> int:
        return count_lines(source, segment.start)

    name = settings.text_field
    assert name is not None
    if source.format == "jsonl":
        records = line_records(stream, limit, faults, source.path, lines_before)
    else:
        records = document_records(stream, limit)
    for line, record in records:
        text = field_bytes(record, name)
        if type(text) is str:
            faults.add(source.path, lines_before() + line, text)
        elif len(text) > limit:
            faults.add(source.path, lines_before() + line, too_long(limit))
        else:
            yield text  # type: ignore[misc]


def count_lines(source: Source, offset: int) -> int:
    """Lines that begin before the part of a file that begins at ``offset``."""
    if offset == 0:
        return 0
    with open_stream(source, 0, offset) as stream:
        count = 0
        while block := stream.read(1 << 20):
            count += block.count(b"\n")
        return count
