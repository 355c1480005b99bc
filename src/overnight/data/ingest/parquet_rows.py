"""Text of one column of Parquet files, read by pyarrow a few megabytes at a time."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

from overnight.data.ingest.columns import choose, first_line, is_text, no_column, text_columns
from overnight.data.ingest.faults import Faults, too_long
from overnight.data.ingest.settings import PrepareSettings
from overnight.data.ingest.sources import STDIN, Source
from overnight.data.ingest.streams import CHUNK, BrokenInputError, open_stream
from overnight.errors import UserError

# Rows are read this many bytes of text at a time, going by the average that the file's own index gives.
_BATCH_BYTES = 4 << 20
_BATCH_ROWS = 4096


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
            raise BrokenInputError(first_line(error)) from None


def parquet_texts(
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
            raise no_column(source.path, field, text_columns(schema))
        type = schema.types[schema.names.index(field)]
        if not is_text(type):
            raise UserError(f"{source.path}: column {field!r} holds {type}, not text.", choose(text_columns(schema)))
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
