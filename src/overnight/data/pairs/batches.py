"""Batches of pairs of like length, each a function of (seed, step, first, count).

An epoch is a permutation of all pairs, drawn from (seed, epoch), cut into pools of P batches. A pool is sorted by
length and cut into batches, whose order in the pool is drawn; what is left over at the end of an epoch is left out of
it, another rest each time. So a step knows its pairs without those before it: resuming is one integer, and any share
of a batch can be asked for.

Shape suffixes: T source words, U target words, B pairs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from overnight.data.pairs.corpus import PairCorpus, PairStream
from overnight.errors import UserError

POOL_PAIRS = 12_800
"""Pairs that are sorted by length together: the same number whatever the batch, so that a large batch mixes lengths."""
Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class PairBatch:
    """Pairs, padded at their ends with ``eos``; what is padding, the lengths say.

    Attributes:
        source_TB: int64 ids, each source ended by ``eos``.
        source_length_B: of each, ``eos`` included.
        input_UB: what the decoder reads: ``bos``, and the target but for its ``eos``.
        target_UB: what it is to say: the target, ended by ``eos``.
        target_length_B: of each, ``eos`` included.
        targets: their sum, known on the host.
    """

    source_TB: Tensor
    source_length_B: Tensor
    input_UB: Tensor
    target_UB: Tensor
    target_length_B: Tensor
    targets: int

    def to(self, device: torch.device) -> PairBatch:
        """The batch on a device; through pinned memory to a GPU, so that the copy waits for nothing."""

        def move(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)

        return PairBatch(*(move(getattr(self, item.name)) for item in fields(self)))


def gather(stream: PairStream, pairs_B: Ids, bos: int) -> PairBatch:
    """A batch of these pairs, in their order.

    Args:
        stream: a split.
        pairs_B: which pairs, 0 to below ``stream.pairs``.
        bos: id that the decoder reads first.
    """
    starts, sources, targets = stream.starts[pairs_B], stream.source_lengths[pairs_B], stream.target_lengths[pairs_B]
    source_TB = _padded(stream, starts, sources, stream.eos[0])
    target_UB = _padded(stream, starts + sources, targets, stream.eos[1])
    input_UB = torch.cat([torch.full((1, len(pairs_B)), bos), target_UB[:-1]])
    return PairBatch(
        source_TB, torch.from_numpy(sources), input_UB, target_UB, torch.from_numpy(targets), int(targets.sum())
    )


def _padded(stream: PairStream, starts_B: Ids, lengths_B: Ids, pad: int) -> Tensor:
    steps_T1 = np.arange(lengths_B.max(initial=0))[:, None]
    ids_TB = stream.take(starts_B + np.minimum(steps_T1, lengths_B - 1))
    ids_TB[steps_T1 >= lengths_B] = pad
    return torch.from_numpy(ids_TB)


class PairBatches:
    """The batches of a split.

    Args:
        stream: usually ``PairCorpus(folder).split("train")``.
        bos: of the target's vocabulary.
        lanes: B, pairs of a batch over all ranks.
        seed: of the order.
        pool: pairs that are sorted by length together; at least a batch.

    Attributes:
        length: words of a target, on average.

    Raises:
        UserError: if the split has fewer pairs than a batch, naming the largest that fits.
    """

    def __init__(
        self, stream: PairStream, bos: int, lanes: int, *, seed: int | None = 0, pool: int = POOL_PAIRS
    ) -> None:
        if lanes < 1 or pool < 1:
            raise UserError(f"Batches of {lanes} pairs from pools of {pool} cannot be.", "Both must be at least 1.")
        if stream.pairs < lanes:
            remedy = f"The largest batch that fits is {stream.pairs}." if stream.pairs else "Give more text."
            raise UserError(f"The corpus has {stream.pairs:,} pairs, too few for a batch of {lanes:,}.", remedy)
        self.stream, self.bos, self.lanes, self.seed = stream, bos, lanes, seed or 0
        self.steps_per_epoch = stream.pairs // lanes
        self.pool_batches = max(1, pool // lanes)
        self.length = round(float(stream.target_lengths.mean()))
        self.digest: str | None = None
        self.vocabulary_digest: str | None = None
        self._epoch: tuple[int, Ids] = (-1, np.zeros(0, dtype=np.int64))

    def order(self, epoch: int) -> Ids:
        """The pairs of an epoch, batch after batch."""
        if self._epoch[0] == epoch:
            return self._epoch[1]
        rng = np.random.default_rng([self.seed, epoch])
        shuffled = rng.permutation(self.stream.pairs)[: self.steps_per_epoch * self.lanes]
        parts = []
        for pool in np.split(
            shuffled, range(self.pool_batches * self.lanes, len(shuffled), self.pool_batches * self.lanes)
        ):
            by_length = np.lexsort((self.stream.source_lengths[pool], self.stream.target_lengths[pool]))
            batches = pool[by_length].reshape(-1, self.lanes)
            parts.append(batches[rng.permutation(len(batches))].ravel())
        self._epoch = (epoch, np.concatenate(parts))
        return self._epoch[1]

    def at(self, step: int, first: int = 0, count: int | None = None) -> PairBatch:
        """The pairs ``first`` to ``first + count`` of a step (a rank's, or a micro-batch's share)."""
        count = self.lanes - first if count is None else count
        epoch, index = divmod(step, self.steps_per_epoch)
        begin = index * self.lanes + first
        return gather(self.stream, self.order(epoch)[begin : begin + count], self.bos)


def pair_batches(
    *, corpus: str, lanes: int, seed: int | None, split: str = "train", pool: int = POOL_PAIRS
) -> PairBatches:
    """The batches of a corpus folder, after checking its files against its manifest: on a host with several ranks the
    one whose ``LOCAL_RANK`` is 0 does that for all of them.

    Args:
        corpus: a folder made by ``overnight prepare --pairs``.
        lanes, seed, pool: see ``PairBatches``.
        split: which split.

    Raises:
        UserError: if the folder is no corpus of pairs, a file was altered, or the split is too small.
    """
    opened = PairCorpus(corpus)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        opened.verify()
    made = PairBatches(opened.split(split), opened.bos, lanes, seed=seed, pool=pool)
    made.digest, made.vocabulary_digest = opened.digest, opened.vocabulary_digest
    return made
