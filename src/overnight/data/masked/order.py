"""Which row a sample of a run is: every row once an epoch, in an order that is computed and never held."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from overnight.data.words.shuffle import Shuffle

Ids = npt.NDArray[np.int64]


def shuffled(rows: int, seed: tuple[int, ...], samples: Ids) -> Ids:
    """The rows of samples, counted over the whole run: sample s is row π_e(s mod rows) of epoch e = s // rows.

    Args:
        rows: how many there are.
        seed: numbers that decide the permutations, with the epoch's.
        samples: int64 [B].

    >>> sorted(shuffled(3, (0,), np.arange(6)).tolist())
    [0, 0, 1, 1, 2, 2]
    """
    epochs, places = np.divmod(samples, rows)
    found = np.empty(len(samples), dtype=np.int64)
    for epoch in np.unique(epochs):
        own = epochs == epoch
        found[own] = Shuffle(rows, (*seed, int(epoch)))(places[own])
    return found
