"""One file of texts, with or without labels, read a record at a time."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from overnight.data.ingest.faults import Faults
from overnight.data.ingest.parquet_rows import open_parquet
from overnight.data.ingest.records import document_records, line_records
from overnight.data.ingest.sources import COMPRESSIONS, FORMATS, Source, find_sources
from overnight.data.ingest.streams import BrokenInputError, open_stream
from overnight.data.ingest.text import line_blocks
from overnight.data.labelled.fields import choose_fields
from overnight.errors import UserError

_LIMIT = 64_000_000
"""Bytes of the longest record."""


@dataclass(frozen=True, slots=True)
class Record:
    """A text, its label (None where none is wanted), and the line or row of the file where it stands.

    Bytes that are not UTF-8 stand in the text as lone surrogates (`surrogateescape`), so that none is lost.
    """

    text: str
    label: str | None
    line: int


def find_source(path: str | Path, format: str | None = None) -> Source:
    """The one file at `path` ("-": standard input), its format by its name; an unknown ending is plain lines.

    Raises:
        UserError: there is no such file, or it cannot be read.
    """
    if format is None:
        suffixes = [suffix.lower() for suffix in Path(path).suffixes]
        if suffixes and suffixes[-1] in COMPRESSIONS:
            suffixes.pop()
        format = None if suffixes and suffixes[-1] in FORMATS else "txt"
    if Path(path).is_dir():
        raise UserError(f"{path} is a folder.", "Name one file.")
    found = find_sources([str(path)], format=format)
    return found[0]


def read_records(
    source: Source,
    *,
    text_field: str | None = None,
    label_field: str | None = None,
    labelled: bool = True,
    stdin: Any = None,
) -> Iterator[Record]:
    """Records of a file in their order.

    Plain lines are `label text` (the label ends at the first space or tab) where labels are wanted, else a text each.

    Args:
        source: from `find_source`.
        text_field: the field or column with the text; guessed where it is obvious.
        label_field: likewise with the label.
        labelled: whether every record must have a label.
        stdin: what to read for "-".

    Raises:
        UserError: a record is malformed, has no text or no label, or the fields cannot be told.
    """
    try:
        if source.format == "txt":
            yield from _lines(source, labelled, stdin)
            return
        rows = {"csv": _table, "tsv": _table, "parquet": _parquet}.get(source.format, _json)
        fields: tuple[str, str | None] | None = None
        for line, row in rows(source, stdin):
            if fields is None:
                fields = choose_fields(source.path, list(row), text_field, label_field, labelled)
            yield Record(_text(row, fields[0], source, line), _label(row, fields[1], source, line), line)
    except BrokenInputError as error:
        place = source.path if error.line is None else f"{source.path}:{error.line}"
        raise UserError(f"{place}: {error.reason}.", "Mend the file.") from None


def _lines(source: Source, labelled: bool, stdin: Any) -> Iterator[Record]:
    number = 0
    with open_stream(source, stdin=stdin) as stream:
        for block in line_blocks(stream, _LIMIT, cut=True):
            for raw in block:
                number += 1
                text = raw.decode("utf-8", "surrogateescape").removesuffix("\r")
                if number == 1:
                    text = text.removeprefix("\ufeff")
                if not labelled:
                    yield Record(text, None, number)
                elif text.strip():
                    label, *rest = text.split(maxsplit=1)
                    yield Record(rest[0] if rest else "", label, number)


def _table(source: Source, stdin: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(min(_LIMIT, sys.maxsize))
    plain = source.format == "tsv"
    with open_stream(source, stdin=stdin) as stream:
        text = io.TextIOWrapper(io.BufferedReader(stream), "utf-8-sig", "surrogateescape", newline="")
        reader = csv.reader(
            text, delimiter="\t" if plain else ",", quoting=csv.QUOTE_NONE if plain else csv.QUOTE_MINIMAL, strict=True
        )
        try:
            names = next(reader, [])
            for row in reader:
                if not row:
                    continue
                if len(row) != len(names):
                    raise UserError(
                        f"{source.path}:{reader.line_num} has {len(row)} fields, not {len(names)} as its first line.",
                        "Mend the line; fields with commas or line breaks need double quotes."
                        if not plain
                        else "Mend the line; a field cannot hold a tab.",
                    )
                yield reader.line_num, dict(zip(names, row, strict=True))
        except csv.Error as error:
            raise UserError(f"{source.path}:{reader.line_num}: {error}.", "Mend the line.") from None


def _json(source: Source, stdin: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    faults = Faults(stop=False)
    with open_stream(source, stdin=stdin) as stream:
        records = (
            line_records(stream, _LIMIT, faults, source.path, lambda: 0)
            if source.format == "jsonl"
            else document_records(stream, _LIMIT)
        )
        for line, value in records:
            _no_fault(faults)
            if not isinstance(value, dict):
                raise UserError(
                    f"{source.path}:{line} is no JSON object.", 'Give {"text": …, "label": …} on each line.'
                )
            yield line, value
    _no_fault(faults)


def _no_fault(faults: Faults) -> None:
    if faults.listed:
        fault = faults.listed[0]
        raise UserError(f"{fault['path']}:{fault['line']}: {fault['reason']}.", "Mend the line.")


def _parquet(source: Source, stdin: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    row = 0
    with open_parquet(source, stdin) as file:
        for batch in file.iter_batches(1024, use_threads=False):
            for value in batch.to_pylist():
                row += 1
                yield row, value


def _text(row: dict[str, Any], field: str, source: Source, line: int) -> str:
    value = row.get(field)
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if not isinstance(value, str):
        raise UserError(_without(row, field, source, line, "text"), "Mend the record, or choose another --text-field.")
    return value


def _label(row: dict[str, Any], field: str | None, source: Source, line: int) -> str | None:
    if field is None:
        return None
    value = row.get(field)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a reader may make 1.0 of 1
    label = str(value).strip() if isinstance(value, str | int | float) and value == value else ""
    if not label:
        raise UserError(_without(row, field, source, line, "label"), "Give every record a label, or leave it out.")
    return label


def _without(row: dict[str, Any], field: str, source: Source, line: int, what: str) -> str:
    reason = f"its {field!r} is empty or no {what}" if field in row else f"it has no {field!r} ({_names(list(row))})"
    return f"{source.path}:{line} has no {what}: {reason}."


def _names(names: Sequence[str]) -> str:
    return "its fields: " + (", ".join(names[:12]) or "none")
