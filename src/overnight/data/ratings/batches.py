"""Shuffled batches of users; the batch of a step is a function of (seed, step, rank), so resuming is one integer.

Samples are counted over the whole run as in ``overnight.data.images.batches``: sample s is user π_e(s mod U) of epoch
e = s // U, a batch of B users is filled up from the next epoch, and none is dropped. With k repetitions of dense
re-feeding each batch is followed by k steps with the same users.

Shape suffixes: B users, N ratings, M items of the dense pass.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from overnight.data.ratings.loading import load_ratings
from overnight.data.ratings.settings import RatingSettings
from overnight.data.ratings.table import RatingMatrix
from overnight.errors import UserError

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RatingBatch:
    """Ratings of some users, one user after the other, each in rising order of items.

    Attributes:
        user_B: int64, which rows of the matrix.
        offset_B: int64 [B + 1]; row b has the ratings ``offset_B[b]`` to before ``offset_B[b + 1]``.
        item_N: int64.
        value_N: float32.
        hidden_N: bool; those that the model does not see and is asked for. None hides none.
        dense_M: int64, items of the dense pass; None is all.
        repetition: 0 for a batch of ratings; 1 and more for a dense pass after it.
        ratings, users, hidden: N, B and how many ratings are hidden, all known on the host.
    """

    user_B: Tensor
    offset_B: Tensor
    item_N: Tensor
    value_N: Tensor
    hidden_N: Tensor | None = None
    dense_M: Tensor | None = None
    repetition: int = 0
    ratings: int = 0
    users: int = 0
    hidden: int = 0

    def to(self, device: torch.device) -> RatingBatch:
        """The batch on a device; through pinned memory to a GPU, so that the copy waits for nothing."""

        def move(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)

        return RatingBatch(*(move(getattr(self, item.name)) for item in fields(self)))


def gather(matrix: RatingMatrix, users_B: Indices) -> RatingBatch:
    """The ratings of these users, in their order.

    >>> matrix = RatingMatrix(np.array([0, 2, 3]), np.array([0, 1, 1]), np.arange(3, dtype=np.float32), None, 2)
    >>> gather(matrix, np.array([1, 0])).value_N.tolist()
    [2.0, 0.0, 1.0]
    """
    offsets, places = matrix.cells(users_B)
    items = np.asarray(matrix.items[places], dtype=np.int64)
    values = np.asarray(matrix.values[places], dtype=np.float32)
    user_B, offset_B, item_N, value_N = map(torch.from_numpy, (np.asarray(users_B, np.int64), offsets, items, values))
    return RatingBatch(user_B, offset_B, item_N, value_N, ratings=len(values), users=len(users_B))


class RatingBatches:
    """The batches of a matrix (the order: top of this module). Users without ratings are left out.

    Args:
        matrix: the training ratings.
        batch: B, over all ranks.
        seed: of the order, of what is hidden and of the items of dense passes.
        hide: probability with which each rating is hidden from the model's input, another draw each time a user comes.
        repetitions: k steps of dense re-feeding after each step.
        dense_items: so many items, another draw a step, take part in them; None takes all.

    Raises:
        UserError: for a batch less than 1 or more than there are users, or settings that cannot be.

    Example:
        >>> matrix = RatingMatrix(np.arange(5), np.zeros(4, np.int32), np.ones(4, np.float32), None, 2)
        >>> batches = RatingBatches(matrix, 2)
        >>> sorted(torch.cat([batches.at(step).user_B for step in range(2)]).tolist())
        [0, 1, 2, 3]
    """

    def __init__(
        self,
        matrix: RatingMatrix,
        batch: int,
        *,
        seed: int = 0,
        hide: float = 0.0,
        repetitions: int = 0,
        dense_items: int | None = None,
    ) -> None:
        self.active = np.flatnonzero(matrix.counts > 0)
        if batch < 1 or batch > len(self.active):
            raise UserError(
                f"A batch of {batch:,} users cannot be read: {len(self.active):,} have ratings.",
                f"Take 1 to {len(self.active)}.",
            )
        if not 0.0 <= hide < 1.0 or repetitions < 0:
            raise UserError(
                f"hide={hide} and repetitions={repetitions} cannot be.", "Take 0 to below 1, and 0 or more."
            )
        if dense_items is not None and not 1 <= dense_items <= matrix.item_count:
            raise UserError(f"dense_items={dense_items} of {matrix.item_count:,} items cannot be.", "Or take None.")
        self.matrix, self.batch, self.seed, self.hide = matrix, batch, seed, hide
        self.repetitions, self.dense_items = repetitions, dense_items
        self.digest = matrix.digest
        self.steps_per_epoch = len(self.active) / batch * (1 + repetitions)
        self.length = round(len(matrix) / len(self.active))
        self._permutation = lru_cache(maxsize=2)(self._draw)

    def users(self, step: int, first: int = 0, count: int | None = None) -> Indices:
        """Rows of the users of a step, ``first`` to ``first + count`` of its batch."""
        places = self._samples(step, first, count)
        epochs = places // len(self.active)
        found = np.empty(len(places), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            own = epochs == epoch
            found[own] = self._permutation(epoch)[places[own] % len(self.active)]
        return found

    def at(self, step: int, first: int = 0, count: int | None = None) -> RatingBatch:
        """The users ``first`` to ``first + count`` (a rank's, or a micro-batch's share) of the batch of a step."""
        found = gather(self.matrix, self.users(step, first, count))
        hidden = dense = None
        if self.hide:
            sample_N = np.repeat(self._samples(step, first, count), np.diff(found.offset_B.numpy()))
            drawn = uniform(sample_N * self.matrix.item_count + found.item_N.numpy(), self.seed)
            hidden = torch.from_numpy(drawn < self.hide)
        if self.dense_items is not None:
            generator = np.random.default_rng([self.seed, step // (1 + self.repetitions), 1])
            dense = torch.from_numpy(np.sort(generator.permutation(self.matrix.item_count)[: self.dense_items]))
        repetition = step % (1 + self.repetitions)
        hidden_count = 0 if hidden is None else int(hidden.sum())
        return replace(found, hidden_N=hidden, dense_M=dense, repetition=repetition, hidden=hidden_count)

    def _samples(self, step: int, first: int, count: int | None) -> Indices:
        count = self.batch - first if count is None else count
        return step // (1 + self.repetitions) * self.batch + first + np.arange(count, dtype=np.int64)

    def _draw(self, epoch: int) -> Indices:
        return self.active[np.random.default_rng([self.seed, epoch]).permutation(len(self.active))]


def uniform(places: Indices, seed: int) -> npt.NDArray[np.float64]:
    """A number in [0, 1) for each place, the same however places are asked for (Steele et al. 2014, SplitMix64).

    >>> uniform(np.arange(3), 1)[2] == uniform(np.array([2]), 1)[0]
    np.True_
    """
    step = np.uint64(0x9E3779B97F4A7C15)
    x = (places.astype(np.uint64) + np.uint64(seed * 0xD1342543DE82EF95 % (1 << 64))) * step + step
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    found: npt.NDArray[np.float64] = (x >> np.uint64(11)).astype(np.float64) / float(1 << 53)
    return found


def rating_batches(
    *,
    corpus: str,
    lanes: int,
    seed: int,
    settings: Any = RatingSettings,
    valid: str = "",
    test: str = "",
    hide: float = 0.0,
    repetitions: int = 0,
    dense_items: int | None = None,
) -> RatingBatches:
    """The training batches of a set of ratings, for a run.

    Args:
        corpus, valid, test: see ``load_ratings``.
        lanes: the batch in users, over all ranks.
        seed: of the order.
        settings: () → RatingSettings.
        hide, repetitions, dense_items: see ``RatingBatches``.

    Raises:
        UserError: if the files cannot be used or the batch is larger than the data.
    """
    matrix = load_ratings(corpus, settings(), valid=valid, test=test).train
    return RatingBatches(matrix, lanes, seed=seed, hide=hide, repetitions=repetitions, dense_items=dense_items)
