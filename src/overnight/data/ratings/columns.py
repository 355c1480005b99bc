"""Growing columns of a rating matrix: lists in memory, or files whose digest is known when they are whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from overnight.data.ingest.shards import HashedFile
from overnight.data.ratings.table import Offsets, RatingMatrix, Times, Values

COLUMNS = {"offsets": "<i8", "items": "<i4", "values": "<f4", "timestamps": "<i8"}
"""Columns of a matrix and what they hold on disk."""


def column_file(split: str, column: str) -> str:
    """Name of a column's file in a corpus folder."""
    return f"{split}.{column}.bin"


class MatrixWriter:
    """Takes the ratings of one user after another.

    Args:
        folder: where the columns are written; None keeps them in memory.
        name: of the split.
        timed: whether there are times.
    """

    def __init__(self, folder: Path | None, name: str, timed: bool) -> None:
        self.folder, self.name = folder, name
        self.columns = [column for column in COLUMNS if timed or column != "timestamps"]
        self._files = {} if folder is None else {c: HashedFile(folder / column_file(name, c)) for c in self.columns}
        self._parts: dict[str, list[npt.NDArray[np.generic]]] = {column: [] for column in self.columns}
        self._end = 0
        self._put("offsets", np.zeros(1, np.int64))

    def append(self, counts: Offsets, items: npt.NDArray[np.int32], values: Values, times: Times | None) -> None:
        """Some users: how many ratings each has, and these."""
        ends = self._end + np.cumsum(counts, dtype=np.int64)
        self._end += int(counts.sum())
        self._put("offsets", ends)
        self._put("items", items)
        self._put("values", values)
        if times is not None:
            self._put("timestamps", times)

    def _put(self, column: str, array: npt.NDArray[np.generic]) -> None:
        array = np.ascontiguousarray(array, dtype=COLUMNS[column])
        if self.folder is None:
            self._parts[column].append(array)
        elif len(array):
            self._files[column].write(array.data.cast("B"))

    def finish(self, item_count: int) -> tuple[RatingMatrix, dict[str, dict[str, str | int]]]:
        """The matrix, and of each file its bytes and sha256."""
        if self.folder is None:
            arrays = {column: np.concatenate(self._parts[column]) for column in self.columns}
            self._parts = {}
            return _matrix(arrays, item_count), {}
        about: dict[str, dict[str, str | int]] = {}
        for column, file in self._files.items():
            file.flush()
            file.sync()
            about[column_file(self.name, column)] = {"bytes": file.size, "sha256": file.sha256()}
            file.close()
        return read_matrix(self.folder, self.name, item_count, "timestamps" in self.columns), about

    def abandon(self) -> None:
        """Close the files as they are."""
        for file in self._files.values():
            file.close()


def read_matrix(folder: Path, name: str, item_count: int, timed: bool) -> RatingMatrix:
    """A matrix whose columns are files; the offsets in memory, the others mapped."""
    arrays = {}
    for column, dtype in COLUMNS.items():
        path = folder / column_file(name, column)
        if column == "timestamps" and not timed:
            continue
        empty = path.stat().st_size == 0
        if column == "offsets":
            arrays[column] = np.fromfile(path, dtype=dtype)
        else:
            arrays[column] = np.zeros(0, dtype) if empty else np.memmap(path, dtype=dtype, mode="r")
    return _matrix(arrays, item_count)


def _matrix(arrays: dict[str, Any], item_count: int) -> RatingMatrix:
    times = arrays.get("timestamps")
    return RatingMatrix(arrays["offsets"], arrays["items"], arrays["values"], times, item_count)
