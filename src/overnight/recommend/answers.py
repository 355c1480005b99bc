"""What a trained autoencoder says: of some cells, of a whole row, of a whole column.

Rows and columns are those of the matrix that it was trained on: users and items, or the other way about. Shape
suffixes: B rows, N cells, R all rows, n all columns.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from overnight.data.ratings.batches import RatingBatch, gather
from overnight.data.ratings.table import RatingMatrix
from overnight.evaluate.rating_baselines import DampedBiases, damped_biases
from overnight.evaluate.ratings import CALL_USERS
from overnight.models.autoencoder import RatingAutoencoder

Values = npt.NDArray[np.float64]
Places = npt.NDArray[np.signedinteger[Any]]


class Answers:
    """A model beside the ratings that it sees.

    Args:
        model: in evaluation mode, on its device.
        train: the ratings.
    """

    def __init__(self, model: RatingAutoencoder, train: RatingMatrix) -> None:
        self.model, self.train = model, train
        self.device = model.input.device

    @cached_property
    def biases(self) -> DampedBiases:
        """For what is not in ``train``: those that a net has learned mean little without the rest of it."""
        return damped_biases(self.train)

    @torch.no_grad()
    def cells(self, row_N: Places, column_N: Places) -> Values:
        """Predictions; -1 stands for a row or column that is not there, which the biases answer without it."""
        known_N = (row_N >= 0) & (column_N >= 0)
        found_N = np.zeros(len(row_N)) if known_N.all() else self.biases.predict(row_N, column_N)
        order = np.argsort(row_N, kind="stable")
        order = order[known_N[order]]
        rows, starts = np.unique(row_N[order], return_index=True)
        ends = np.append(starts[1:], len(order))
        for at in range(0, len(rows), CALL_USERS):
            part = slice(at, at + CALL_USERS)
            places, counts = order[starts[at] : ends[part][-1]], (ends - starts)[part]
            offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])).to(self.device)
            asked = torch.from_numpy(column_N[places].astype(np.int64)).to(self.device)
            said = self.model.at(self._state(gather(self.train, rows[part])), offsets, asked)
            found_N[places] = said.double().cpu().numpy()
        return found_N

    @torch.no_grad()
    def row(self, batch: RatingBatch) -> Values:
        """All columns [n] for a row with these ratings."""
        return self.model.dense(self._state(batch))[0].double().cpu().numpy()

    @torch.no_grad()
    def column(self, column: int) -> Values:
        """All rows [R] of one column."""
        parts = []
        for state, count in self._states:
            offsets = torch.arange(count + 1, device=self.device)
            said = self.model.at(state, offsets, torch.full((count,), column, device=self.device))
            parts.append(said.double().cpu().numpy())
        return np.concatenate(parts)

    @cached_property
    def _states(self) -> list[tuple[Any, int]]:
        """Of all rows, kept: each column is then one product with them."""
        with torch.no_grad():
            batches = (
                gather(self.train, np.arange(at, min(at + CALL_USERS, self.train.user_count)))
                for at in range(0, self.train.user_count, CALL_USERS)
            )
            return [(self._state(batch), batch.users) for batch in batches]

    def of_biases(self, count: int, *, rows: bool) -> Values:
        """μ + b of all rows, for a column that is not there; or of all columns."""
        all_of, none = np.arange(count), np.full(count, -1)
        return self.cells(all_of, none) if rows else self.cells(none, all_of)

    def _state(self, batch: RatingBatch) -> Any:
        shown = batch.to(self.device)
        return self.model.hidden(shown.offset_B, shown.item_N, shown.value_N)

    def seen_in_row(self, row: int) -> Places:
        """Columns that a row has rated."""
        return np.asarray(self.train.items[self.train.offsets[row] : self.train.offsets[row + 1]])

    def seen_in_column(self, column: int) -> Places:
        """Rows that have rated a column."""
        places = np.flatnonzero(self.train.items == column)
        return np.searchsorted(self.train.offsets, places, side="right") - 1
