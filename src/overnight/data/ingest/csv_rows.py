"""Text of one column of CSV and TSV files, read by pyarrow a block at a time."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from overnight.data.ingest.columns import first_line, is_text, no_column
from overnight.data.ingest.faults import Faults, too_long
from overnight.data.ingest.settings import PrepareSettings
from overnight.data.ingest.sources import STDIN, Source
from overnight.data.ingest.streams import CHUNK, BrokenInputError, Stream, open_stream

_AHEAD = 3
_PATIENCE_SECONDS = 0.2
_SLICE = 1024
# pyarrow stops for good at a malformed row with bytes that are not UTF-8. Read as Latin-1 every byte is a character,
# and encoding the text again gives the bytes of the file.
_ENCODING = "latin-1"
_MARK = b"\xef\xbb\xbf"


class _LongRowError(Exception):
    """A row does not fit in a block."""


def csv_texts(
    source: Source, settings: PrepareSettings, faults: Faults, stdin: Any = None
) -> Iterator[tuple[bytes, Callable[[], int]]]:
    """Texts of a file with a header row, their bytes as they are, each with a function that tells how far it was read.

    A file is read with small blocks, and once more with large ones from where a row did not fit.

    Args:
        source: the file.
        settings: the column, quoting and the longest document.
        faults: told of rows with too many or too few fields.
        stdin: what to read for "-".

    Raises:
        UserError: the column is not there.
        BrokenInputError: pyarrow cannot go on, or a row is longer than a document may be.
    """
    # Twice, because of the transcoding; quotes, commas and other columns are why a row is given more than its text.
    largest = 2 * settings.max_document_bytes + CHUNK
    mark = faults.mark()
    done = 0
    for block in (largest,) if source.path == STDIN else (CHUNK, largest):
        faults.back_to(mark)
        passed = 0
        try:
            with open_stream(source, stdin=stdin) as stream:
                for text in _rows(_Paced(stream), source, settings, faults, block):
                    passed += 1
                    if passed > done:
                        done = passed
                        yield text, stream.consumed
            return
        except _LongRowError:
            continue
    raise BrokenInputError(f"a row is longer than {largest / 1e6:.6g} MB (--max-document-mb), or a quote is not closed")


def csv_columns(source: Source, settings: PrepareSettings, stdin: Any = None) -> list[str] | None:
    """Names of the columns that hold text, going by the first rows; None where there are none.

    Raises:
        BrokenInputError: pyarrow cannot read it.
    """
    import pyarrow as pa

    with open_stream(source, stdin=stdin) as stream:
        paced = _Paced(stream)
        try:
            reader = _open(paced, source, replace(settings, text_field=None), 4 * CHUNK, lambda row: "skip")
            if reader is None or next(iter(reader), None) is None:
                return None
            return [_as_read(field.name) for field in reader.schema if is_text(field.type)]
        except pa.ArrowInvalid as error:
            raise BrokenInputError(first_line(error)) from None
        except _LongRowError:
            raise BrokenInputError("its first row is too long") from None
        finally:
            paced.release()


def _rows(stream: _Paced, source: Source, settings: PrepareSettings, faults: Faults, block: int) -> Iterator[bytes]:
    import pyarrow as pa

    bad: list[Any] = []

    def note(row: Any) -> str:
        bad.append(row)
        return "error" if faults.stop else "skip"

    def tell() -> None:
        while bad:
            row = bad.pop(0)
            faults.add(
                source.path,
                row.number,
                f"the row has {row.actual_columns} fields, not {row.expected_columns} (the header is row 1)",
            )

    number = 1
    try:
        reader = _open(stream, source, settings, block, note)
        for batch in reader or ():
            number += len(bad)
            tell()
            column = batch.column(0)
            for start in range(0, len(column), _SLICE):
                for text in column.slice(start, _SLICE).to_pylist():
                    number += 1
                    if not text.isascii():
                        text = text.decode().encode(_ENCODING)
                    if len(text) > settings.max_document_bytes:
                        faults.add(source.path, number, too_long(settings.max_document_bytes))
                    else:
                        yield text
            stream.delivered()
        tell()
    except pa.ArrowKeyError:
        assert settings.text_field is not None
        raise no_column(source.path, settings.text_field, csv_columns(source, settings) or []) from None
    except pa.ArrowInvalid as error:
        tell()
        if "straddl" in str(error):
            raise _LongRowError from None
        raise BrokenInputError(first_line(error)) from None
    finally:
        stream.release()


def _open(stream: _Paced, source: Source, settings: PrepareSettings, block: int, note: Callable[[Any], str]) -> Any:
    """pyarrow's streaming reader of the text column, or of all where there is no ``text_field``; None without rows."""
    import pyarrow as pa
    from pyarrow import csv

    quoted = settings.quoting == "double" or (settings.quoting == "auto" and source.format == "csv")
    field = None if settings.text_field is None else _as_seen(settings.text_field)
    try:
        return csv.open_csv(
            stream,
            read_options=csv.ReadOptions(use_threads=False, block_size=block, encoding=_ENCODING),
            parse_options=csv.ParseOptions(
                delimiter="\t" if source.format == "tsv" else ",",
                quote_char='"' if quoted else False,
                double_quote=quoted,
                newlines_in_values=quoted,
                invalid_row_handler=note,
            ),
            convert_options=csv.ConvertOptions(
                include_columns=[field] if field is not None else [],
                column_types={field: pa.binary()} if field is not None else {},
                check_utf8=False,
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        if "Empty CSV" not in str(error):
            raise
        if stream.size >= block:
            raise _LongRowError from None
        return None


def _as_seen(name: str) -> str:
    """A column's name as pyarrow sees it."""
    return name.encode("utf-8", "surrogateescape").decode(_ENCODING)


def _as_read(name: str) -> str:
    return name.encode(_ENCODING).decode("utf-8", "surrogateescape")


class _Paced(io.RawIOBase):
    """Keeps pyarrow, which reads up to 32 blocks ahead in another thread, from holding them all in memory."""

    def __init__(self, stream: Stream) -> None:
        self.size = 0
        self._stream = stream
        self._allowed = _AHEAD
        self._released = False
        self._change = threading.Condition()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        with self._change:
            # Blocks without a good row are delivered to nobody, so the wait must end by itself.
            self._change.wait_for(lambda: self._allowed > 0 or self._released, _PATIENCE_SECONDS)
            if self._released:
                return b""
            self._allowed -= 1
        data = self._stream.read(size)
        if not self.size:
            data = data.removeprefix(_MARK)
        self.size += len(data)
        return data

    def delivered(self) -> None:
        """One more block may be read."""
        with self._change:
            self._allowed += 1
            self._change.notify()

    def release(self) -> None:
        """Nothing more is wanted."""
        with self._change:
            self._released = True
            self._change.notify()
