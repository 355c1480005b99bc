"""Timed optimizer updates: the trainer's own step on the run's own batch."""

import statistics
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from overnight.data.corpus import Bytes, ByteStream
from overnight.data.lanes import Lanes
from overnight.errors import UserError
from overnight.train.build import Parts, build
from overnight.train.distributed import World
from overnight.train.precision import Precision
from overnight.train.run import Run
from overnight.train.step import Stepper

PROBE = 4
"""Bytes a lane of the short steps by which the time of whole ones is guessed."""


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Args:
        bytes_per_s: read by training.
        step_seconds: of one update of the whole length: the median, or extrapolated.
        steps: of the longest updates that were timed.
        window: their bytes a lane; below the run's length the rest is extrapolated.
        peak_bytes: highest memory on a GPU, if whole steps were timed; None elsewhere.
    """

    bytes_per_s: float
    step_seconds: float
    steps: int
    window: int
    peak_bytes: int | None


class RandomBytes(ByteStream):
    """Bytes drawn once, in memory."""

    def __init__(self, size: int) -> None:
        super().__init__([])
        self._drawn = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)

    def __len__(self) -> int:
        return len(self._drawn)

    def read(self, start: int, length: int) -> Bytes:
        return self._drawn.take(range(start, start + length), mode="wrap")


def measure(run: Run, precision: Precision, world: World, stream: ByteStream, seconds: float) -> Speed:
    """Train for about ``seconds`` and say how fast: lanes cut, forward, backward, clipping and the optimizer.

    Where whole steps would take too long, steps of two shorter windows are timed: a step takes a constant and so much
    for every byte of a lane.

    Raises:
        UserError: if the stream is too short for the run's lanes, or the step does not fit into memory.
    """
    started = time.perf_counter()
    reading = partial(Lanes, stream, length=run.data.keywords["length"], reset=run.data.keywords["reset"])
    parts = build(replace(run, data=partial(_lanes, reading=reading), precision=precision.name), world)
    trainer = _Trainer(run, parts, world, stream)
    length: int = run.data.keywords["length"]
    try:
        probe = min(PROBE, length)
        first = trainer.step(probe)  # makes the optimizer's state and whatever is made once
        left = max(seconds - (time.perf_counter() - started), 0.0)
        repeats = 2 if 10 * first < left else 1
        short = min(trainer.step(probe) for _ in range(repeats))
        left = max(seconds - (time.perf_counter() - started), 0.0)
        window = max(int(left / (3 * short) * probe), 2 * probe)
        if window >= length:
            return trainer.whole_steps(length, left)
        long = min(trainer.step(window) for _ in range(repeats))
        # on a busy machine the longer one may be the faster one
        a_byte = (long - short) / (window - probe) if long > short else long / window
        whole = long + (length - window) * a_byte
        return Speed(run.global_batch_size * length / whole, whole, repeats, window, None)
    except RuntimeError as error:
        # torch's CPU allocator has no exception of its own
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        raise UserError("Its step does not fit into memory.", "Take a smaller --batch-size.") from error
    finally:
        trainer.close()


def _lanes(lanes: int, seed: int, reading: Any) -> Lanes:
    made: Lanes = reading(lanes=lanes, seed=seed)
    return made


class _Trainer:
    def __init__(self, run: Run, parts: Parts, world: World, stream: ByteStream) -> None:
        self.run, self.parts, self.world, self.stream = run, parts, world, stream
        self.stepper = Stepper(parts.task, parts.optimizer, world, parts.precision, run.max_norm)
        self.carry: dict[str, Tensor] = parts.task.initial_carry(run.global_batch_size)
        self.taken = 0

    def step(self, window: int) -> float:
        """Seconds of one update on windows of so many bytes."""
        lanes = Lanes(self.stream, self.run.global_batch_size, window, reset=self.run.data.keywords["reset"])
        self._wait()
        before = time.perf_counter()
        batches = [lanes.at(self.taken, *part).to(self.world.device) for part in self.parts.plan.lanes(0)]
        self.carry = self.stepper(batches, self.carry).carry
        self._wait()
        self.taken += 1
        return time.perf_counter() - before

    def whole_steps(self, length: int, seconds: float) -> Speed:
        started, cuda = time.perf_counter(), self.world.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.world.device)
        self.step(length)
        times: list[float] = []
        while len(times) < 2 or time.perf_counter() - started < seconds:
            times.append(self.step(length))
        peak = torch.cuda.max_memory_allocated(self.world.device) if cuda else None
        median = statistics.median(times)
        return Speed(self.run.global_batch_size * length / median, median, len(times), length, peak)

    def close(self) -> None:
        self.stepper.close()
        if self.world.device.type == "cuda":
            torch.cuda.empty_cache()

    def _wait(self) -> None:
        if self.world.device.type == "cuda":
            torch.cuda.synchronize(self.world.device)
