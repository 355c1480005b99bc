"""What is said where the net knows nothing: the mean, and biases of rows and columns.

Shape suffixes: B rows, N ratings of all of them, n columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from overnight.data.ratings.batches import RatingBatch
from overnight.data.ratings.table import BLOCK, RatingMatrix

Values = npt.NDArray[np.float64]
DAMPING = 10.0
"""Ratings that a bias is pulled towards 0 by, of a model that has learned none."""


@dataclass(frozen=True)
class Biases:
    """μ + b_column + b_row, with b_row = Σ (r - μ - b_column) / (damping + count) over the row's ratings.

    Attributes:
        mean: μ.
        column_n: b_column, float64.
        damping: of b_row.
    """

    mean: float
    column_n: Values
    damping: float

    @classmethod
    def of(cls, model: Any, train: RatingMatrix) -> Biases:
        """Those that a model has learned; of one that has none, b_column = Σ (r - μ) / (damping + count)."""
        if model.mean is not None:
            learned: Values = model.item_bias.detach().double().cpu().numpy()
            return cls(model.mean.item(), learned, float(model.damping))
        sums, counts = np.zeros((2, train.item_count))
        for at in range(0, len(train), BLOCK):
            columns, values = train.items[at : at + BLOCK], train.values[at : at + BLOCK]
            sums += np.bincount(columns, values.astype(np.float64) - train.mean, minlength=train.item_count)
            counts += np.bincount(columns, minlength=train.item_count)
        return cls(train.mean, sums / (DAMPING + counts), DAMPING)

    def of_rows(self, batch: RatingBatch) -> Values:
        """b_row [B]; 0 of a row without ratings.

        >>> from overnight.data.ratings.batches import gather
        >>> matrix = RatingMatrix(np.array([0, 2]), np.array([0, 1]), np.array([5, 3], np.float32), None, 2)
        >>> Biases(3.0, np.array([1.0, 0.0]), 1.0).of_rows(gather(matrix, np.array([0]))).tolist()
        [0.3333333333333333]
        """
        counts_B = np.diff(batch.offset_B.numpy())
        rest_N = batch.value_N.numpy().astype(np.float64) - self.mean - self.column_n[batch.item_N.numpy()]
        rows_N = np.repeat(np.arange(len(counts_B)), counts_B)
        sums_B = np.bincount(rows_N, rest_N, minlength=len(counts_B))
        return sums_B / np.maximum(counts_B + self.damping, 1e-12)
