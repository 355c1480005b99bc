"""Text of one column of CSV, TSV and Parquet files, read by pyarrow a few megabytes at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from overnight.data.ingest.faults import Faults, too_long
from overnight.data.ingest.settings import PrepareSettings
from overnight.data.ingest.sources import STDIN, Source
from overnight.data.ingest.streams import CHUNK, BrokenInputError, Stream, open_stream
from overnight.errors import UserError

# Rows are read this many bytes of text at a time, going by the average that the file's own index gives.
_BATCH_BYTES = 4 << 20
_BATCH_ROWS = 4096


def csv_documents(stream: Stream, source: Source, settings: PrepareSettings, faults: Faults) -> Iterator[bytes]:
    """The text column of a CSV or TSV file with a header row; the bytes are those of the file.

    Raises:
        UserError: the column is not there.
        BrokenInputError: pyarrow cannot go on.
    """
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
                f"the row has {row.actual_columns} fields, not {row.expected_columns} (rows count from the header, 1)",
            )

    assert settings.text_field is not None
    try:
        reader = open_csv(stream, source, settings, note)
        if reader is None:
            return
        row = 1
        for batch in reader:
            row += len(bad)
            tell()
            for value in batch.column(0).to_pylist():
                row += 1
                if len(value) > settings.max_document_bytes:
                    faults.add(source.path, row, too_long(settings.max_document_bytes))
                else:
                    yield value
        tell()
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        tell()
        if isinstance(error, pa.ArrowKeyError):
            raise _no_column(source.path, settings.text_field, csv_columns(source, settings)) from None
        raise BrokenInputError(_first_line(error)) from None


def open_csv(stream: Stream, source: Source, settings: PrepareSettings, note: Any = None) -> Any:
    """pyarrow's streaming reader of the text column, or of all columns where there is no ``text_field``; None for an
    empty file."""
    import pyarrow as pa
    from pyarrow import csv

    quoted = settings.quoting == "double" or (settings.quoting == "auto" and source.format == "csv")
    field = settings.text_field
    # A row must fit in a block; quotes, commas and other columns are why one is given more than its text.
    block = CHUNK if field is None else min(settings.max_document_bytes + CHUNK, 1 << 30)
    try:
        return csv.open_csv(
            stream,
            read_options=csv.ReadOptions(use_threads=False, block_size=block),
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
        if "Empty CSV" in str(error):
            return None
        raise


def csv_columns(source: Source, settings: PrepareSettings, stdin: Any = None) -> list[str]:
    """Names of a CSV or TSV file's columns that hold text, going by its first rows.

    Raises:
        BrokenInputError: pyarrow cannot read it.
    """
    import dataclasses

    import pyarrow as pa

    everything = dataclasses.replace(settings, text_field=None)
    try:
        with open_stream(source, stdin=stdin) as stream:
            reader = open_csv(stream, source, everything, lambda row: "skip")
            return [] if reader is None else [f.name for f in reader.schema if _is_text(f.type)]
    except pa.ArrowInvalid as error:
        raise BrokenInputError(_first_line(error)) from None


@contextmanager
def open_parquet(source: Source, stdin: Any = None) -> Iterator[Any]:
    """A Parquet file; its index stands at its end, so one that is compressed or piped in is first copied to a temporary
    file (``TMPDIR`` says where).

    Raises:
        BrokenInputError: it is damaged or not Parquet.
    """
    import pyarrow as pa
    from pyarrow import parquet

    file: IO[bytes] | str = source.path
    with tempfile.TemporaryFile() as copy:
        if source.compression or source.path == STDIN:
            with open_stream(source, stdin=stdin) as stream:
                while chunk := stream.read(CHUNK):
                    copy.write(chunk)
            copy.seek(0)
            file = copy
        try:
            with parquet.ParquetFile(file, buffer_size=CHUNK, pre_buffer=False) as opened:
                yield opened
        except (pa.ArrowException, OSError) as error:
            raise BrokenInputError(_first_line(error)) from None


def parquet_documents(
    source: Source, settings: PrepareSettings, groups: tuple[int, int] | None, faults: Faults, stdin: Any = None
) -> Iterator[bytes]:
    """The text column of a Parquet file.

    Args:
        source: the file.
        settings: the column and the longest document.
        groups: first row group and the one after the last; None is all.
        faults: told of rows without a value.
        stdin: what to read for "-".

    Raises:
        UserError: the column is not there or holds no text.
        BrokenInputError: the file is damaged.
    """
    import pyarrow as pa

    field = settings.text_field
    assert field is not None
    with open_parquet(source, stdin) as file:
        schema = file.schema_arrow
        if field not in schema.names:
            raise _no_column(source.path, field, text_columns(schema))
        type = schema.types[schema.names.index(field)]
        if not _is_text(type):
            raise UserError(f"{source.path}: column {field!r} holds {type}, not text.", _choose(text_columns(schema)))
        column = next(i for i in range(len(file.schema)) if file.schema.column(i).path == field)
        first, last = groups or (0, file.metadata.num_row_groups)
        row = sum(file.metadata.row_group(i).num_rows for i in range(first))
        for group in range(first, last):
            meta = file.metadata.row_group(group)
            average = meta.column(column).total_uncompressed_size / max(1, meta.num_rows)
            rows = max(1, min(_BATCH_ROWS, int(_BATCH_BYTES / max(1.0, average))))
            for batch in file.iter_batches(rows, row_groups=[group], columns=[field], use_threads=False):
                for value in batch.column(0).cast(pa.large_binary()).to_pylist():
                    row += 1
                    if value is None:
                        faults.add(source.path, row, f"the field {field!r} is null, not a string")
                    elif len(value) > settings.max_document_bytes:
                        faults.add(source.path, row, too_long(settings.max_document_bytes))
                    else:
                        yield value


def text_columns(schema: Any) -> list[str]:
    """Names of the columns of an Arrow schema that hold text."""
    return [field.name for field in schema if _is_text(field.type)]


def _is_text(type: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(type):
        type = type.value_type
    return any(
        check(type)
        for check in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, _is_view)
    )


def _is_view(type: Any) -> bool:
    return str(type) in ("string_view", "binary_view")


def _no_column(path: str, field: str, names: list[str]) -> UserError:
    return UserError(f"{path} has no column {field!r}.", _choose(names))


def _choose(names: list[str]) -> str:
    if not names:
        return "It has no column of text."
    return f"Choose one of its columns of text with --text-field: {', '.join(names)}."


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
