"""Ratings in any of the forms that an estimator takes → what is trained on."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from overnight.data.ratings.files import NAMES, choose_columns, is_number
from overnight.data.ratings.loading import load_ratings, split_table
from overnight.data.ratings.settings import RatingSettings
from overnight.data.ratings.table import RatingSplits, RatingTable
from overnight.errors import UserError

Ratings = str | Path | RatingTable | Mapping[str, Any] | Sequence[Any]
"""A path; columns by name (a dict, a DataFrame) or in the order user, item, rating and perhaps time; or a table."""


def training_ratings(ratings: Any, settings: RatingSettings) -> RatingSplits:
    """All of them; of a folder or corpus that has splits, with these beside.

    Raises:
        UserError: for ratings that cannot be used.

    >>> splits = training_ratings((["ann", "ann", "bob"], ["x", "y", "y"], [5, 1, 4]), RatingSettings(test=0.0))
    >>> len(splits.train), splits.users[1]
    (3, 'bob')
    """
    if isinstance(ratings, (str, Path)):
        return load_ratings(ratings, settings)
    return split_table(ratings if isinstance(ratings, RatingTable) else _table(ratings, settings), settings)


def _table(ratings: Any, settings: RatingSettings) -> RatingTable:
    if hasattr(ratings, "keys"):
        names = [str(name) for name in ratings.keys()]  # noqa: SIM118 a table's own iteration may be over its rows
        columns = [ratings[name] for name in choose_columns("The table", names, settings.columns)]
    elif isinstance(ratings, np.ndarray) and ratings.ndim == 2:
        columns = list(ratings.T)
    elif isinstance(ratings, (tuple, list)):
        columns = list(ratings)
    else:
        columns = []
    if len(columns) not in (3, 4):
        raise UserError(
            f"Ratings cannot be made of a {type(ratings).__name__} like this one.",
            "Give a path, or columns: (users, items, ratings) or (users, items, ratings, times).",
        )
    arrays: list[Any] = [np.asarray(column) for column in columns]
    return RatingTable.from_arrays(*arrays)


def read_user(path: str | Path) -> tuple[list[str], list[float]]:
    """Items and ratings of one user from a text file: columns by name, or without a header line item and rating.

    Raises:
        UserError: if it cannot be read, a row is short, or a rating is no number: it says which row.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "mine.csv"
    >>> _ = file.write_text("item,rating\\nx,5\\n\\ny,1.5\\n")
    >>> read_user(file)
    (['x', 'y'], [5.0, 1.5])
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}.", "Name a text file of items and ratings.") from None
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise UserError(f"{path} is empty.", "Give an item and a rating in each row.")
    delimiter = next((mark for mark in ("::", "\t", ",", ";", "|", " ") if mark in numbered[0][1].strip()), ",")
    rows = [
        (number, [field.strip().strip('"') for field in line.strip().split(delimiter)]) for number, line in numbered
    ]
    item, rating = 0, 1
    if not any(is_number(field) for field in rows[0][1]):
        item, rating = (_column(path, rows[0][1], kind) for kind in ("item", "rating"))
        rows = rows[1:]
    items, values = [], []
    for number, fields in rows:
        if len(fields) <= max(item, rating):
            raise UserError(f"{path}, row {number} has {len(fields)} fields.", "Give an item and a rating in each row.")
        if not is_number(fields[rating]):
            raise UserError(f"{path}, row {number}: the rating {fields[rating]!r} is no number.", "Correct it.")
        items.append(fields[item])
        values.append(float(fields[rating]))
    return items, values


def _column(path: Path, names: list[str], kind: str) -> int:
    fits = [at for at, name in enumerate(names) if re.sub(r"[^a-z0-9]", "", name.lower()) in NAMES[kind]]
    if len(fits) != 1:
        raise UserError(
            f"{path}: {len(fits)} of its columns ({', '.join(names)}) may be the {kind}.",
            "Call them item and rating, or leave the header line out.",
        )
    return fits[0]
