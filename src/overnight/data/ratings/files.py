"""Which files hold ratings, and how each is written: told from its first line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from overnight.data.ingest.sources import COMPRESSIONS, Source
from overnight.data.ingest.streams import BrokenInputError, open_stream
from overnight.errors import UserError

WHOLE_SETS = ("ratings.csv", "ratings.dat", "u.data", "ratings.parquet", "ratings.tsv", "ratings.csv.gz")
"""The file of a folder that is all its ratings, as MovieLens names it; others there are splits or about the items."""
NAMES = {
    "user": ("user", "userid", "uid", "customer", "customerid", "reviewerid"),
    "item": ("item", "itemid", "iid", "movie", "movieid", "product", "productid", "asin", "joke", "jokeid", "book"),
    "rating": ("rating", "ratings", "score", "value", "stars", "overall"),
    "time": ("timestamp", "time", "date", "datetime", "unixtime", "ratedat", "unixreviewtime"),
}
"""Names of columns that are understood without being named, letters and digits only."""
_ENDINGS = (".csv", ".tsv", ".txt", ".dat", ".data", ".parquet", ".base", ".test", ".train")
_MOVIE = re.compile(r"\d+:")
_NETFLIX = re.compile(r"(mv_\d+|combined_data_\d+)\.txt(\.gz)?")
_SNIFFED = 1 << 16


@dataclass(frozen=True)
class RatingFile:
    """One file, and how it is written.

    Attributes:
        source: path, compression and size.
        kind: ``delimited``, ``netflix`` (``movie:``, then ``user,rating,date`` lines) or ``parquet``.
        delimiter: between fields.
        columns: names of user, item, rating and perhaps time; or, without a header, places from 0.
        header: names of all columns; empty if there is no header line.
        first: the fields of the first row.
    """

    source: Source
    kind: str
    delimiter: str = ","
    columns: tuple[str, ...] = ()
    header: tuple[str, ...] = ()
    first: tuple[str, ...] = ()


def find_files(path: str | Path, columns: Sequence[str] = ()) -> dict[str, list[RatingFile]]:
    """The files of a path by split.

    A folder may hold a MovieLens set, the files of the Netflix Prize, text files of ``user item rating`` lines (the
    layout of the DeepRecommender reference), or folders of these whose names end in train, valid and test.

    Args:
        path: file or folder.
        columns: names of user, item, rating and perhaps time, where they cannot be guessed.

    Raises:
        UserError: nothing there, or a file that is none of these.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist.", "Name a file or folder of ratings.")
    if not path.is_dir():
        return {"train": [describe(path, columns)]}
    for name in WHOLE_SETS:
        if (path / name).is_file():
            return {"train": [describe(path / name, columns)]}
    inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    parts = {split: entry for entry in inside if entry.is_dir() for split in ("train", "valid", "test")
             if entry.name.lower().endswith(split)}  # fmt: skip
    if "train" in parts:
        return {split: _folder(entry, columns) for split, entry in parts.items()}
    nested = path / "training_set"
    return {"train": _folder(nested if nested.is_dir() else path, columns)}


def _folder(path: Path, columns: Sequence[str]) -> list[RatingFile]:
    entries = sorted(entry for entry in path.iterdir() if entry.is_file())
    files = [entry for entry in entries if _NETFLIX.fullmatch(entry.name)]
    files = files or [entry for entry in entries if _ending(entry) and not entry.name.lower().startswith("readme")]
    if not files:
        raise UserError(f"{path} holds no file of ratings.", f"Name one, or a folder of {', '.join(_ENDINGS)} files.")
    return [describe(entry, columns) for entry in files]


def _ending(path: Path) -> bool:
    stem = path.name.lower()
    for ending in COMPRESSIONS:
        stem = stem.removesuffix(ending)
    return stem.endswith(_ENDINGS)


def describe(path: str | Path, columns: Sequence[str] = ()) -> RatingFile:
    """How a file is written.

    Raises:
        UserError: it is empty, cannot be read, or its columns cannot be told.
    """
    path = Path(path)
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from None
    compression = COMPRESSIONS.get(path.suffix.lower(), "")
    stem = path.name.lower().removesuffix(path.suffix.lower()) if compression else path.name.lower()
    source = Source(path.as_posix(), "csv", compression, stat.st_size, stat.st_mtime_ns)
    if stem.endswith(".parquet"):
        return RatingFile(source, "parquet", columns=tuple(columns))
    line = _first_line(source)
    if _MOVIE.fullmatch(line.strip()):
        return RatingFile(source, "netflix")
    delimiter = next((mark for mark in ("::", "\t", ",", ";", "|", " ") if mark in line.strip()), ",")
    fields = tuple(field.strip().strip('"') for field in line.strip("\r\n ").split(delimiter))
    if any(is_number(field) for field in fields):
        if columns:
            raise UserError(f"{path} has no header line.", "Leave --columns out: it is user, item, rating and time.")
        if len(fields) < 3:
            raise UserError(
                f"{path}, row 1 has {len(fields)} fields; a rating has at least 3.", "Give user, item and rating."
            )
        return RatingFile(source, "delimited", delimiter, first=fields)
    return RatingFile(source, "delimited", delimiter, choose_columns(str(path), fields, columns), fields)


def choose_columns(path: str, names: Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    """Those of user, item, rating and perhaps time, as named or by the names that are understood.

    Raises:
        UserError: one is not there.

    >>> choose_columns("ratings.csv", ["userId", "movieId", "rating", "timestamp"], ())
    ('userId', 'movieId', 'rating', 'timestamp')
    """
    for name in columns:
        if name not in names:
            raise UserError(f"{path} has no column {name!r}.", f"It has: {', '.join(names)}.")
    if columns:
        return tuple(columns)
    found = {}
    for kind, known in NAMES.items():
        fits = [name for name in names if re.sub(r"[^a-z0-9]", "", name.lower()) in known]
        if len(fits) > 1:
            raise UserError(
                f"{path}: the {kind} may be in column {' or '.join(fits)}.",
                "Say which with --columns USER ITEM RATING.",
            )
        if fits:
            found[kind] = fits[0]
        elif kind != "time":
            raise UserError(
                f"{path}: none of its columns ({', '.join(names)}) is known to be the {kind}.",
                "Name them with --columns USER ITEM RATING [TIME].",
            )
    return tuple(found.values())


def is_number(text: str) -> bool:
    """Whether it reads as one."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _first_line(source: Source) -> str:
    try:
        with open_stream(source) as stream:
            start = stream.read(_SNIFFED).removeprefix(b"\xef\xbb\xbf")
    except BrokenInputError as error:
        raise UserError(f"{source.path}: {error.reason}.", "Take a whole copy of the file.") from None
    if not start.strip():
        raise UserError(f"{source.path} is empty.", "Give a file with ratings.")
    return start.split(b"\n", 1)[0].decode("utf-8", "replace")
