"""Ratings in any of the forms that an estimator takes → what is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from overnight.data.ratings.files import choose_columns
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
