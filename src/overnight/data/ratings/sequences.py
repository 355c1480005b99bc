"""Columns of ratings that a caller has in memory, as the types that are worked with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from overnight.errors import UserError

NO_TIME = int(np.iinfo(np.int64).min)
"""Stands for a time that is missing."""


def finite_values(values: Sequence[Any]) -> npt.NDArray[np.float32]:
    """Ratings as float32.

    Raises:
        UserError: for one that is not a finite number; it says which.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        array = np.array([_number(value) for value in values], dtype=np.float64)
    with np.errstate(over="ignore"):
        found = array.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(found))
    if len(bad):
        raise UserError(f"Rating {bad[0]} is {values[bad[0]]}.", "Give finite numbers; leave out what is unknown.")
    return found


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def seconds(timestamps: Sequence[Any]) -> npt.NDArray[np.int64]:
    """Seconds since 1970 from numbers, dates as NumPy understands them, or None; NO_TIME where one is missing.

    Raises:
        UserError: if they cannot be read.

    >>> seconds(["2005-01-01", "2005-01-02T12:00"]).tolist(), int(seconds([7, None])[0])
    ([1104537600, 1104667200], 7)
    """
    array = np.asarray(timestamps)
    if array.dtype.kind in "iu":
        return array.astype(np.int64)
    if array.dtype.kind == "M":
        return _from_dates(array)
    try:
        numbers = np.array([np.nan if time is None else time for time in array.tolist()], dtype=np.float64)
    except (TypeError, ValueError):
        return _from_dates(array)
    known = np.isfinite(numbers)
    return np.where(known, np.where(known, numbers, 0.0).astype(np.int64), NO_TIME)


def _from_dates(array: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    try:
        return array.astype("datetime64[s]").astype(np.int64)  # what is no time (NaT) becomes NO_TIME
    except (TypeError, ValueError) as error:
        raise UserError(
            f"The times of the ratings cannot be read: {error}.", "Give seconds since 1970, or dates."
        ) from None


def named(names: Sequence[Any], kind: str) -> npt.NDArray[Any]:
    """Ids as whole numbers or as text; numbers like 7.0, which tables with gaps have, as whole ones.

    Raises:
        UserError: for one that is missing or has more than one line; it says which.
    """
    array = np.asarray(names)
    if array.dtype.kind in "iu":
        return array
    if array.dtype.kind == "f" and np.isfinite(array).all() and (array == np.floor(array)).all():
        return array.astype(np.int64)
    for place, name in enumerate(array.tolist()):
        text = str(name)
        if name is None or name != name or not text.strip() or "\n" in text:
            raise UserError(f"The {kind} of rating {place} is {name!r}.", "Give each an id of its own.")
    return array.astype(str)
