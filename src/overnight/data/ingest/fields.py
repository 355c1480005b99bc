"""Which field holds the text, where nobody said."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from overnight.data.ingest.columns import text_columns
from overnight.data.ingest.csv_rows import csv_columns
from overnight.data.ingest.faults import Faults
from overnight.data.ingest.parquet_rows import open_parquet
from overnight.data.ingest.records import document_records, line_records
from overnight.data.ingest.settings import PrepareSettings
from overnight.data.ingest.sources import Source
from overnight.data.ingest.streams import BrokenInputError, open_stream
from overnight.errors import UserError

# Preferred among several fields that hold strings, best first.
WELL_KNOWN = ("text", "content", "body", "review", "reviewText", "review_text", "sentence", "document", "comment")
_RECORDS = 100


def guess_text_field(
    sources: Sequence[Source], settings: PrepareSettings, stdin: Any, notify: Callable[[str], None]
) -> str | None:
    """The field with the text, from the first source that has records; None where all sources are plain text.

    Args:
        sources: in reading order.
        settings: ``quoting`` and the limits are used.
        stdin: what stands for "-", read from its beginning and not wound back.
        notify: told of the guess.

    Raises:
        UserError: no field, or several and none with a well-known name.
    """
    for source in sources:
        if source.format == "txt":
            continue
        try:
            names = _string_fields(source, settings, stdin)
        except BrokenInputError as error:
            place = source.path if error.line is None else f"{source.path}:{error.line}"
            raise UserError(
                f"{place}: {error.reason}.", "Mend the file, or name the field yourself with --text-field."
            ) from None
        if names is None:
            continue
        if not names:
            raise UserError(f"{source.path} has no field that holds text.", "Give files that have one.")
        chosen = names[0] if len(names) == 1 else next((n for n in WELL_KNOWN if n in names), None)
        if chosen is None:
            raise UserError(
                f"{source.path} has several fields that hold text: {', '.join(names)}.",
                f"Choose one, such as --text-field {names[0]}.",
            )
        others = f" (others with text: {', '.join(n for n in names if n != chosen)})" if len(names) > 1 else ""
        notify(f"Text field: {chosen}, as in {source.path}{others}.")
        return chosen
    return None


def _string_fields(source: Source, settings: PrepareSettings, stdin: Any) -> list[str] | None:
    """Fields that hold strings, in order of appearance; None where there is no record."""
    if source.format in ("csv", "tsv"):
        return csv_columns(source, settings, stdin)
    if source.format == "parquet":
        with open_parquet(source, stdin) as file:
            return text_columns(file.schema_arrow)
    seen: list[Any] = []
    faults = Faults(stop=False)
    try:
        seen.extend(value for value in islice(_records(source, settings, faults, stdin), _RECORDS))
    except BrokenInputError:
        # A piped head ends anywhere, and what is wrong further on is told when that place is reached.
        if not seen:
            raise
    if not seen and faults.listed:
        fault = faults.listed[0]
        raise BrokenInputError(fault["reason"], fault["line"])
    if not seen:
        return None
    records = [record for record in seen if type(record) is dict]
    names = dict.fromkeys(name for record in records for name in record)
    kinds = {name: {type(record[name]) for record in records if name in record} for name in names}
    return [name for name in names if str in kinds[name] and kinds[name] <= {str, type(None)}]


def _records(source: Source, settings: PrepareSettings, faults: Faults, stdin: Any) -> Iterator[Any]:
    limit = settings.max_document_bytes
    with open_stream(source, stdin=stdin) as stream:
        if source.format == "jsonl":
            records = line_records(stream, limit, faults, source.path, lambda: 0)
        else:
            records = document_records(stream, limit)
        for _, value in records:
            yield value


class Replay:
    """A readable that gives what was already read of another one first: standard input, looked at and then read.

    Args:
        rest: the other one.
        size: bytes to read ahead.

    ``bytes`` counts what was read.
    """

    def __init__(self, rest: Any, size: int = 1 << 22) -> None:
        self.head: bytes = rest.read(size)
        self._left = io.BytesIO(self.head)
        self._rest = rest
        self.bytes = 0

    def read(self, size: int = -1) -> bytes:
        """At most ``size`` bytes; none at the end."""
        data = self._left.read(size)
        if size < 0 or not data:
            data += self._rest.read(size)
        self.bytes += len(data)
        return data
