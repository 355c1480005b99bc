"""Lanes for truncated backpropagation through time with carried state; what a token is, the stream decides.

The stream of N tokens is cut into B lanes of N // B tokens. Step t reads the next T tokens of every lane, so a lane's
state after step t is its state before step t + 1. The batch of step t is a function of (seed, t, rank): epoch
e = t // steps_per_epoch starts every lane r(seed, e) tokens further along the stream (a circle), so that epochs
see other window edges. Resuming is one integer.
"""

import os
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from overnight.data.corpus import Corpus
from overnight.data.sharded import TokenStream
from overnight.errors import UserError


@dataclass(frozen=True)
class LaneBatch:
    """Shapes: T time, B lanes.

    Attributes:
        input_TB: int64 bytes, or ids of words.
        target_TB: the one after each input.
        reset_TB: True where the state is zeroed before reading that input.
    """

    input_TB: Tensor
    target_TB: Tensor
    reset_TB: Tensor

    def to(self, device: torch.device) -> "LaneBatch":
        """The batch on a device; through pinned memory to a GPU, so that the copy waits for nothing."""

        def move(x: Tensor) -> Tensor:
            return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)

        return LaneBatch(move(self.input_TB), move(self.target_TB), move(self.reset_TB))


class Lanes:
    """The batches of a stream.

    Args:
        stream: bytes or words, usually ``Corpus(folder).split("train")``.
        lanes: B, over all ranks.
        length: T, tokens a lane and step.
        seed: decides where each epoch starts in the stream; None starts every epoch at token 0.
        reset: zero the state at starts of ``shard`` (the paper's), of ``document`` (words: ``sentence``), or ``never``
            inside an epoch.

    Raises:
        UserError: if the stream is too short for one step, naming the largest number of lanes that fits.
    """

    def __init__(
        self, stream: TokenStream, lanes: int, length: int, *, seed: int | None = 0, reset: str = "shard"
    ) -> None:
        if lanes < 1 or length < 1:
            raise UserError(f"{lanes} lanes of {length} {stream.unit} cannot be read.", "Both must be at least 1.")
        size = len(stream)
        # one token more than T, because the last input needs a target
        if size // lanes < length + 1:
            fits = size // (length + 1)
            remedy = f"The largest batch that fits is {fits}." if fits else "Give more text, or a shorter sequence."
            raise UserError(
                f"The corpus has {size:,} {stream.unit}, too few for {lanes:,} lanes of {length:,} {stream.unit} "
                "and one more.",
                remedy,
            )
        self.stream, self.lanes, self.length, self.seed, self.reset = stream, lanes, length, seed, reset
        self.digest: str | None = None
        self.vocabulary_digest: str | None = None
        self.lane_size = size // lanes
        self.steps_per_epoch = (self.lane_size - 1) // length
        self._starts = stream.resets(reset)

    def epoch_offset(self, epoch: int) -> int:
        """Where lane 0 starts in this epoch."""
        if self.seed is None:
            return 0
        return int(np.random.default_rng([self.seed, epoch]).integers(len(self.stream)))

    def at(self, step: int, first: int = 0, count: int | None = None) -> LaneBatch:
        """The batch of a step for lanes ``first`` to ``first + count`` (a rank's, or a micro-batch's share)."""
        count = self.lanes - first if count is None else count
        epoch, index = divmod(step, self.steps_per_epoch)
        offset = self.epoch_offset(epoch) + index * self.length
        window = np.empty((count, self.length + 1), dtype=self.stream.dtype)
        reset = np.zeros((count, self.length), dtype=bool)
        size = len(self.stream)
        for row in range(count):
            start = (offset + (first + row) * self.lane_size) % size
            window[row] = self.stream.read(start, self.length + 1)
            self._mark(reset[row], start)
        if index == 0:
            reset[:, 0] = True
        tokens_TB = torch.from_numpy(window).t().to(torch.int64)
        return LaneBatch(tokens_TB[:-1].contiguous(), tokens_TB[1:].contiguous(), torch.from_numpy(reset.T.copy()))

    def _mark(self, row: npt.NDArray[np.bool_], start: int) -> None:
        size = len(self.stream)
        for shift in (0, size):  # the window may run over the end of the circle
            low, high = np.searchsorted(self._starts, [start - shift, start + self.length - shift])
            row[self._starts[low:high] + shift - start] = True


def corpus_lanes(
    *, corpus: str, lanes: int, seed: int | None, split: str = "train", length: int = 256, reset: str = "shard"
) -> Lanes:
    """The lanes of a corpus folder, after checking every shard against its manifest: on a host with several ranks the
    one whose ``LOCAL_RANK`` is 0 does that for all of them.

    Args:
        corpus: a folder made by ``overnight prepare``.
        lanes, length, seed, reset: see ``Lanes``.
        split: which split.

    Raises:
        UserError: if the folder is no corpus, a shard was altered, or the split is too short.
    """
    opened = Corpus(corpus)
    if os.environ.get("LOCAL_RANK", "0") == "0":
        opened.verify()
    made = Lanes(opened.split(split), lanes, length, seed=seed, reset=reset)
    made.digest = opened.digest
    return made
