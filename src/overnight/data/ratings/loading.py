"""Ratings from a file, a folder or a prepared corpus, split and ready to train on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from overnight.data.ratings.columns import MatrixWriter
from overnight.data.ratings.corpus import RatingCorpus
from overnight.data.ratings.files import RatingFile, describe, find_files
from overnight.data.ratings.reading import read_ratings
from overnight.data.ratings.settings import RatingSettings
from overnight.data.ratings.sorting import Gathered, Gatherer, matrix_of, sort_ratings
from overnight.data.ratings.splits import NAMES, TRAIN, Labelled, Source, label, split_ratings
from overnight.data.ratings.table import RatingMatrix, RatingSplits, RatingTable
from overnight.errors import UserError

Files = dict[str, list[RatingFile]]


def load_ratings(
    path: str | Path, settings: RatingSettings | None = None, *, valid: str | Path = "", test: str | Path = ""
) -> RatingSplits:
    """The splits of a rating file, a folder of them, or a corpus that ``overnight prepare --ratings`` made.

    What was loaded last is kept for the next call. A corpus has its own splits and stays on disk (unless ``by`` is
    item: then it is turned in memory).

    Args:
        path: see ``find_files``.
        settings: how it is read and split; a split that has files of its own is these, all of them.
        valid, test: files of the held-out splits.

    Raises:
        UserError: for files that cannot be used; it names file and row, or user and item.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "ratings.csv"
    >>> _ = file.write_text("user,item,rating\\nann,x,5\\nann,y,0\\nbob,x,-1\\nbob,y,3\\n")
    >>> splits = load_ratings(file, RatingSettings(test=0.0))
    >>> len(splits.train), splits.users[0], splits.train.values.tolist()
    (4, 'ann', [5.0, 0.0, -1.0, 3.0])
    """
    path = Path(path)
    if (path / "manifest.json").is_file():
        if valid or test:
            raise UserError(f"{path} is prepared and has its splits.", "Leave the files of the held-out splits away.")
        return _corpus(path, (settings or RatingSettings()).by, (path / "manifest.json").stat().st_mtime_ns)
    stamps = tuple((file.source.path, file.source.mtime_ns) for files in given_files(path, valid, test).values()
                   for file in files)  # fmt: skip
    return _load(str(path), settings or RatingSettings(), str(valid), str(test), stamps)


@lru_cache(maxsize=2)
def _load(path: str, settings: RatingSettings, valid: str, test: str, stamps: object) -> RatingSplits:
    splits, _ = build_splits(given_files(path, valid, test, settings.columns), settings)
    return splits if settings.by == "user" else splits.transposed()


@lru_cache(maxsize=2)
def _corpus(path: Path, by: str, stamp: int) -> RatingSplits:
    splits = RatingCorpus(path).splits
    return splits if by == "user" else splits.transposed()


def split_table(table: RatingTable, settings: RatingSettings | None = None) -> RatingSplits:
    """The splits of ratings that are in memory.

    Raises:
        UserError: for a rating outside the scale, duplicates with ``error``, or too little to train on.
    """
    settings = settings or RatingSettings()
    if not len(table):
        raise UserError("There are no ratings.", "Give some.")
    table.check_scale(settings.scale)
    matrix = matrix_of(Gathered.of(table), settings.duplicates)
    source = Source(matrix, label(matrix, settings, table.users, table.items), NAMES)
    splits = split_ratings([source], table.users, table.items)[0]
    return splits if settings.by == "user" else splits.transposed()


def given_files(path: str | Path, valid: str | Path = "", test: str | Path = "", columns: Sequence[str] = ()) -> Files:
    """The files of each split that has any.

    Raises:
        UserError: one is not there, or cannot be understood.
    """
    files = find_files(path, columns)
    for name, extra in (("valid", valid), ("test", test)):
        if extra:
            files[name] = [describe(extra, columns)]
    return files


def build_splits(
    files: Files,
    settings: RatingSettings,
    folder: Path | None = None,
    scratch: Path | None = None,
    on_read: Callable[[int], None] | None = None,
) -> tuple[RatingSplits, dict[str, dict[str, str | int]]]:
    """Read, sort and split.

    Args:
        files: as ``given_files`` gives them.
        settings: how.
        folder: where the splits are written; None keeps them in memory.
        scratch: where to put ratings aside; None keeps them in memory.
        on_read: called with the bytes that were read since the last call.

    Returns:
        The splits, and of each file its bytes and sha256.

    Raises:
        UserError: for files that cannot be used.
    """
    gathered = _gather(files, settings, scratch, on_read)
    train = gathered["train"]
    if not len(train):
        raise UserError(f"{files['train'][0].source.path} holds no ratings.", "Give a file with some.")
    drawn = replace(
        settings,
        valid=0 if "valid" in gathered else settings.valid,
        test=0 if "test" in gathered else settings.test,
    )
    matrix = _sorted(train, "train", settings, scratch)
    own = label(matrix, drawn, train.users, train.items) if drawn.heldout else partial(_all, matrix, TRAIN)
    sources = [Source(matrix, own, tuple(name for name in NAMES if name == "train" or name not in gathered))]
    for place, name in enumerate(NAMES[1:], start=1):
        if name in gathered:
            given = _sorted(gathered[name], name, settings, scratch)
            sources.append(Source(given, partial(_all, given, place), (name,)))
    return split_ratings(sources, train.users, train.items, folder)


def _all(matrix: RatingMatrix, place: int) -> Labelled:
    for first, last in matrix.blocks():
        yield first, last, np.full(int(matrix.offsets[last] - matrix.offsets[first]), place, dtype=np.uint8)


def _gather(
    files: Files, settings: RatingSettings, scratch: Path | None, on_read: Callable[[int], None] | None
) -> dict[str, Gathered]:
    gatherer, ends = Gatherer(scratch), {}
    for name in NAMES:
        for file in files.get(name, ()):
            for block in read_ratings(file, settings.columns, settings.scale, on_read):
                gatherer.add(block)
        ends[name] = gatherer.count
    whole = gatherer.finish()
    starts = dict(zip(NAMES, (0, *ends.values()), strict=False))
    return {name: whole.part(starts[name], ends[name]) for name in NAMES if name in files}


def _sorted(gathered: Gathered, name: str, settings: RatingSettings, scratch: Path | None) -> RatingMatrix:
    writer = MatrixWriter(scratch, f"all-{name}", gathered.timed)
    try:
        sort_ratings(gathered, settings.duplicates, writer, scratch)
    except BaseException:
        writer.abandon()
        raise
    return writer.finish(len(gathered.items))[0]
