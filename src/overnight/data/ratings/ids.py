"""The names of users and items, and the numbers that stand for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int32]
_WHOLE = re.compile(r"0|-?[1-9]\d{0,17}")


class Ids:
    """A table of ids: id i belongs to index i. Rising, as numbers if all are whole numbers, else as text.

    Args:
        names: distinct whole numbers or distinct strings, rising.

    Example:
        >>> ids = Ids(["ann", "bob"])
        >>> ids[1], ids.index(["bob", "eve"]).tolist()
        ('bob', [1, -1])
    """

    def __init__(self, names: Sequence[Any] | npt.NDArray[np.int64]) -> None:
        whole = isinstance(names, np.ndarray) and names.dtype.kind == "i"
        self.names: Any = np.asarray(names, np.int64) if whole else list(names)
        self.whole = whole

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> int | str:
        name = self.names[index]
        return int(name) if self.whole else name

    def index(self, names: Sequence[Any] | npt.NDArray[Any]) -> Indices:
        """The index of each of these ids, -1 for those that are not in the table."""
        if self.whole and isinstance(names, np.ndarray) and names.dtype.kind == "i" and len(self):
            places = np.minimum(np.searchsorted(self.names, names), len(self) - 1)
            return np.where(self.names[places] == names, places, -1).astype(np.int32)
        return np.array([self._places.get(str(name), -1) for name in names], dtype=np.int32).reshape(-1)

    def kept(self, mask: npt.NDArray[np.bool_]) -> Ids:
        """Those where the mask is true."""
        if self.whole:
            return Ids(self.names[mask])
        return Ids([name for name, keep in zip(self.names, mask.tolist(), strict=True) if keep])

    def as_text(self) -> str:
        """One a line."""
        return "".join(f"{name}\n" for name in self.names)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {str(name): place for place, name in enumerate(self.names)}


class Interner:
    """Numbers ids in the order in which they come, and sorts them in the end.

    Example:
        >>> users = Interner()
        >>> users.add(["10", "9"]).tolist()
        [0, 1]
        >>> ids, rank = users.finish()
        >>> [ids[i] for i in range(2)], rank.tolist()
        ([9, 10], [1, 0])
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, names: Sequence[str]) -> Indices:
        """Their numbers, new ones for those that are new."""
        numbers = self._numbers
        return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int32).reshape(-1)

    def finish(self) -> tuple[Ids, Indices]:
        """The sorted table, and what each number becomes."""
        names = list(self._numbers)
        ids, order = sorted_ids(names)
        rank = np.empty(len(names), dtype=np.int32)
        rank[order] = np.arange(len(names), dtype=np.int32)
        return ids, rank


def sorted_ids(names: Sequence[str]) -> tuple[Ids, npt.NDArray[np.int64]]:
    """The table of distinct ids, and the place of each in what was given."""
    if all(_WHOLE.fullmatch(name) for name in names):
        whole = np.array([int(name) for name in names], dtype=np.int64)
        order = np.argsort(whole, kind="stable")
        return Ids(whole[order]), order
    order = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
    return Ids([names[place] for place in order]), order
