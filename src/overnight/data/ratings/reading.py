"""Ratings of csv, tsv, parquet, MovieLens and Netflix Prize files, a block at a time."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
import numpy.typing as npt

from overnight.data.ingest.columns import first_line
from overnight.data.ingest.parquet_rows import open_parquet
from overnight.data.ingest.streams import BrokenInputError, open_stream
from overnight.data.ratings.files import RatingFile, choose_columns, is_number
from overnight.data.ratings.table import NO_TIME, Times, Values
from overnight.errors import UserError

_BLOCK_BYTES = 1 << 20
_BLOCK_ROWS = 1 << 18
_REMEDY = "Correct it, or leave that row out."
_MOVIE = re.compile(rb"(?m)^(\d+):\s*$")


@dataclass(frozen=True)
class RatingBlock:
    """Some ratings in a row: codes into the distinct ids of the block.

    Attributes:
        user, item: int32 [N].
        user_names, item_names: the ids.
        value: float32 [N], finite.
        timestamp: int64 [N], ``NO_TIME`` where one is missing; None without a column of times.
    """

    user: npt.NDArray[np.int32]
    user_names: list[str]
    item: npt.NDArray[np.int32]
    item_names: list[str]
    value: Values
    timestamp: Times | None

    def __len__(self) -> int:
        return len(self.value)


def read_ratings(
    file: RatingFile,
    columns: tuple[str, ...] = (),
    scale: tuple[float, float] | None = None,
    on_read: Callable[[int], None] | None = None,
) -> Iterator[RatingBlock]:
    """The ratings of a file in order.

    Args:
        file: as ``describe`` found it.
        columns: names of user, item, rating and perhaps time, for parquet.
        scale: lowest and highest rating there may be.
        on_read: called with the bytes of the file that were read since the last call.

    Raises:
        UserError: for a rating that is no finite number or outside the scale, an empty id, a time that cannot be
            read, a row of too few fields, a damaged file: each with its row.
    """
    readers = {"delimited": _delimited, "netflix": _netflix, "parquet": _parquet}
    row = 1 + bool(file.header)
    told = 0
    try:
        for columns_of, consumed in readers[file.kind](file, columns):
            block = _block(file.source.path, columns_of, row, scale)
            row += len(block)
            if on_read is not None:
                now = consumed()
                on_read(now - told)
                told = now
            if len(block):
                yield block
    except BrokenInputError as error:
        raise UserError(f"{file.source.path}: {error.reason}.", "Take a whole copy of the file.") from None
    if on_read is not None:
        on_read(file.source.bytes - told)


def _delimited(file: RatingFile, columns: tuple[str, ...]) -> Iterator[tuple[list[Any], Callable[[], int]]]:
    import pyarrow as pa
    from pyarrow import csv

    names = list(file.header) or [str(place) for place in range(len(file.first))]
    wanted = list(file.columns) or names[:4]
    codes = pa.dictionary(pa.int32(), pa.string())
    types: dict[str, Any] = dict.fromkeys(wanted[:3], codes)
    with open_stream(file.source) as stream:
        delimiter, readable = file.delimiter, stream
        if delimiter == "::":
            delimiter, readable = "\t", _Narrowed(stream)  # type: ignore[assignment]
        if len(wanted) > 3:
            types[wanted[3]] = _time_type(file, wanted[3], delimiter)
        try:
            reader = csv.open_csv(
                readable,
                read_options=csv.ReadOptions(
                    use_threads=False, block_size=_BLOCK_BYTES, column_names=None if file.header else names
                ),
                parse_options=csv.ParseOptions(delimiter=delimiter),
                convert_options=csv.ConvertOptions(
                    include_columns=wanted, column_types=types, null_values=["", "NULL", "null", "NA"],
                    strings_can_be_null=False,
                ),
            )  # fmt: skip
            for batch in reader:
                yield [batch.column(place) for place in range(len(wanted))], stream.consumed
        except pa.ArrowInvalid as error:
            if "Empty CSV" in str(error):
                return
            raise UserError(f"{file.source.path}: {first_line(error)}.", _REMEDY) from None


def _time_type(file: RatingFile, name: str, delimiter: str) -> Any:
    """Whole numbers, numbers or dates: going by the first row."""
    import pyarrow as pa

    if file.first:
        text = file.first[3]
    else:
        with open_stream(file.source) as stream:
            lines = stream.read(1 << 16).replace(b"::", b"\t").decode("utf-8", "replace").splitlines()
        fields = lines[1].split(delimiter) if len(lines) > 1 else []
        place = file.header.index(name)
        text = fields[place].strip().strip('"') if place < len(fields) else ""
    if text and not is_number(text):
        return pa.dictionary(pa.int32(), pa.string())
    return pa.float64() if "." in text or "e" in text.lower() else pa.int64()


def _netflix(file: RatingFile, columns: tuple[str, ...]) -> Iterator[tuple[list[Any], Callable[[], int]]]:
    """``movie:`` and its ``user,rating,date`` lines, and the next; the ratings of a movie may come in several parts."""
    movie, rest = "", b""
    with open_stream(file.source) as stream:
        while True:
            data = stream.read(_BLOCK_BYTES)
            whole, rest = _lines(rest + data) if data else (rest, b"")
            position = 0
            for mark in [*_MOVIE.finditer(whole), None]:
                part = whole[position : mark.start() if mark else len(whole)]
                if part.strip():
                    yield _movie(file, movie, part), stream.consumed
                if mark:
                    movie, position = mark.group(1).decode(), mark.end()
            if not data:
                return


def _lines(data: bytes) -> tuple[bytes, bytes]:
    end = data.rfind(b"\n") + 1
    return data[:end], data[end:]


def _movie(file: RatingFile, movie: str, part: bytes) -> list[Any]:
    import pyarrow as pa
    from pyarrow import csv

    codes = pa.dictionary(pa.int32(), pa.string())
    names = ["user", "rating", "date"]
    try:
        table = csv.read_csv(
            io.BytesIO(part),
            read_options=csv.ReadOptions(use_threads=False, column_names=names, block_size=max(1 << 16, 2 * len(part))),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(names, codes), strings_can_be_null=False),
        ).combine_chunks()
    except pa.ArrowInvalid as error:
        raise UserError(f"{file.source.path}, movie {movie}: {first_line(error)}.", _REMEDY) from None
    user, rating, date = (table.column(name).chunk(0) for name in names)
    item = pa.DictionaryArray.from_arrays(pa.array(np.zeros(len(user), np.int32)), pa.array([movie]))
    return [user, item, rating, date]


def _parquet(file: RatingFile, columns: tuple[str, ...]) -> Iterator[tuple[list[Any], Callable[[], int]]]:
    import pyarrow as pa

    path = file.source.path
    with open_parquet(file.source) as opened:
        schema = opened.schema_arrow
        wanted = list(choose_columns(path, schema.names, columns))
        rows, total = 0, max(1, opened.metadata.num_rows)
        for batch in opened.iter_batches(_BLOCK_ROWS, columns=wanted, use_threads=False):
            arrays = []
            for place, name in enumerate(wanted):
                array = batch.column(batch.schema.get_field_index(name))
                if place == 3 and pa.types.is_temporal(array.type):
                    array = array.cast(pa.timestamp("s"), safe=False).cast(pa.int64())
                if place < 3 or pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
                    array = array.cast(pa.string()).fill_null("").dictionary_encode()
                arrays.append(array)
            rows += len(batch)
            done = int(file.source.bytes * rows / total)
            yield arrays, lambda done=done: done  # type: ignore[misc]


def _block(path: str, arrays: list[Any], row: int, scale: tuple[float, float] | None) -> RatingBlock:
    user, item = _names(path, arrays[0], row, "user"), _names(path, arrays[1], row, "item")
    codes, texts = _codes(arrays[2])
    known = np.array([float(text) if is_number(text) else np.nan for text in texts], dtype=np.float64)
    low, high = scale or (-np.inf, np.inf)
    bad = ~np.isfinite(known) | (known < low) | (known > high)
    if bad.any():
        at = int(np.flatnonzero(bad[codes])[0])
        text, value = texts[codes[at]], known[codes[at]]
        why = f"outside the scale from {low:g} to {high:g}" if np.isfinite(value) else "no finite number"
        raise UserError(f"{path}, row {row + at}: the rating {text!r} is {why}.", _REMEDY)
    times = _times(path, arrays[3], row) if len(arrays) > 3 else None
    return RatingBlock(*user, *item, known.astype(np.float32)[codes], times)


def _codes(array: Any) -> tuple[npt.NDArray[np.int32], list[str]]:
    return array.indices.to_numpy(zero_copy_only=False).astype(np.int32), array.dictionary.to_pylist()


def _names(path: str, array: Any, row: int, kind: str) -> tuple[npt.NDArray[np.int32], list[str]]:
    codes, names = _codes(array)
    for place, name in enumerate(names):
        if name != name.strip() or not name or "\n" in name:
            stripped = name.strip()
            if not stripped or "\n" in stripped:
                at = int(np.flatnonzero(codes == place)[0])
                raise UserError(f"{path}, row {row + at}: the {kind} is {name!r}.", "Give each an id of its own.")
            names[place] = stripped
    return codes, names


def _times(path: str, array: Any, row: int) -> Times:
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        codes, texts = _codes(array)
        known = np.array([_seconds(text) for text in texts], dtype=object)
        for place, found in enumerate(known):
            if found is None:
                at = int(np.flatnonzero(codes == place)[0])
                raise UserError(
                    f"{path}, row {row + at}: the time {texts[place]!r} cannot be read.",
                    "Give seconds since 1970, or dates such as 2005-12-31.",
                )
        return known.astype(np.int64)[codes]
    times: Times = array.fill_null(NO_TIME).to_numpy(zero_copy_only=False)
    if times.dtype.kind == "f":
        missing = ~np.isfinite(times) | (times <= float(NO_TIME))
        return np.where(missing, NO_TIME, np.where(missing, 0.0, times).astype(np.int64))
    return times.astype(np.int64)


def _seconds(text: str) -> int | None:
    if not text:
        return int(NO_TIME)
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        return int(float(text)) if is_number(text) and np.isfinite(float(text)) else None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp())


class _Narrowed(io.RawIOBase):
    """A stream whose ``::`` are tabs, as pyarrow takes one character between fields."""

    def __init__(self, stream: Any) -> None:
        self._stream, self._held = stream, b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data: bytes = self._held + self._stream.read(size)
        self._held = b""
        if data.endswith(b":") and not data.endswith(b"::"):
            more: bytes = self._stream.read(1)
            data += more
        return data.replace(b"::", b"\t")
