"""Samples per second as a function of batch on this device, up to the largest batch that fits."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from overnight.errors import UserError
from overnight.scaling.memory import MemoryGauge, out_of_memory, release


@dataclass(frozen=True)
class Point:
    """One batch that was tried and fits.

    Attributes:
        batch: samples.
        seconds: of a step, median.
        memory_bytes: at its peak, of the device (of the process, on a CPU); None where it cannot be told.
    """

    batch: int
    seconds: float
    memory_bytes: int | None

    @property
    def samples_per_second(self) -> float:
        """Batch / seconds."""
        return self.batch / self.seconds


@dataclass(frozen=True)
class Throughput:
    """A measured curve and the line t(B) = a + b·B through it.

    Attributes:
        points: by rising batch.
        stopped_by: ``memory`` or ``limit``.
        overhead_seconds: a, of a step whatever its batch.
        seconds_per_sample: b, at a large batch.
    """

    points: tuple[Point, ...]
    stopped_by: str
    overhead_seconds: float
    seconds_per_sample: float

    @property
    def largest_batch(self) -> int:
        """The largest that was seen to fit."""
        return self.points[-1].batch

    @property
    def half_speed_batch(self) -> float:
        """a / b: the batch at which the device runs at half of its highest speed."""
        return self.overhead_seconds / self.seconds_per_sample

    def seconds(self, batch: float) -> float:
        """t(B) of one step: measured, between two measured batches on the line between them, elsewhere a + b·B."""
        batches = [point.batch for point in self.points]
        if batches[0] <= batch <= batches[-1]:
            return float(np.interp(batch, batches, [point.seconds for point in self.points]))
        return self.overhead_seconds + self.seconds_per_sample * batch

    def samples_per_second(self, batch: float) -> float:
        """B / t(B)."""
        return batch / self.seconds(batch)

    def hours(self, samples: float, batch: float) -> float:
        """Of a run of so many samples at this batch."""
        return samples / batch * self.seconds(batch) / 3600.0

    def accumulated(self, batch: int) -> tuple[int, float]:
        """A batch in equal micro-batches that fit: how many, and the seconds of them all."""
        count = next(n for n in range(1, batch + 1) if batch % n == 0 and batch // n <= self.largest_batch)
        return count, count * self.seconds(batch // count)


def measure_throughput(
    step: Callable[[int], object],
    *,
    smallest: int = 1,
    largest: int | None = None,
    repeats: int = 5,
    memory_budget_bytes: int | None = None,
    device: torch.device | str = "cpu",
    refinements: int = 4,
    gauge: MemoryGauge | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Throughput:
    """Double the batch until the memory or a limit ends it; then close in on the largest batch that fits.

    On a CPU, where running out of memory ends the process rather than the step, a batch is tried only if the memory of
    the last two predicts that it fits into the budget.

    Args:
        step: makes one whole training step of that many samples and leaves nothing behind.
        smallest: samples to begin with.
        largest: samples at which to stop, such as the data's; None for no limit but the memory's.
        repeats: timed steps a batch, of which the median counts; one more goes before them.
        memory_budget_bytes: not to be exceeded; None for four fifths of what is free on a CPU, and the whole of a GPU.
        device: whose memory is watched, and which is waited for.
        refinements: batches that are tried between the largest that fits and the smallest that does not.
        gauge: reads the memory; None for the device's own.
        clock: seconds.

    Raises:
        UserError: if the smallest batch does not fit.
        ValueError: for settings that cannot be.

    >>> curve = measure_throughput(lambda batch: sum(range(20_000 * batch)), smallest=2, largest=16)
    >>> [point.batch for point in curve.points], curve.stopped_by
    ([2, 4, 8, 16], 'limit')
    """
    for name, value in (("smallest", smallest), ("repeats", repeats)):
        if value % 1 != 0 or value < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}.")
    if largest is not None and largest < smallest:
        raise ValueError(f"largest must be at least smallest={smallest}, not {largest!r}.")
    gauge = gauge or MemoryGauge(torch.device(device))
    budget = gauge.available_bytes() if memory_budget_bytes is None else memory_budget_bytes
    points: list[Point] = []
    batch, refused = smallest, None
    while refused is None:
        point = _tried(step, batch, repeats, budget, points, gauge, clock)
        if point is None:
            refused = batch
        else:
            points.append(point)
            if batch == largest:
                break
            batch = batch * 2 if largest is None else min(batch * 2, largest)
    if not points:
        raise UserError(
            f"A batch of {smallest} does not fit into the memory of {_gigabytes(budget)}.",
            "Take a smaller model or shorter sequences, or raise the memory budget.",
        )
    for _ in range(refinements if refused is not None else 0):
        middle = (points[-1].batch + refused) // 2 if refused is not None else 0
        if middle == points[-1].batch:
            break
        point = _tried(step, middle, repeats, budget, points, gauge, clock)
        if point is None:
            refused = middle
        else:
            points.append(point)
    return Throughput(tuple(points), "limit" if refused is None else "memory", *_line(points))


def _tried(
    step: Callable[[int], object],
    batch: int,
    repeats: int,
    budget: int | None,
    points: Sequence[Point],
    gauge: MemoryGauge,
    clock: Callable[[], float],
) -> Point | None:
    """The batch measured; None if it does not fit."""
    if budget is not None and _predicted_bytes(points, batch) > budget:
        return None
    seconds = []
    gauge.reset()
    try:
        for _ in range(repeats + 1):
            gauge.synchronize()
            started = clock()
            step(batch)
            gauge.synchronize()
            seconds.append(clock() - started)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        error.__traceback__ = None  # its frames hold the tensors of the step that failed
        release(gauge.device)
        return None
    memory = gauge.peak_bytes()
    if budget is not None and memory is not None and memory > budget:
        return None
    return Point(batch, statistics.median(seconds[1:]), memory)


def _predicted_bytes(points: Sequence[Point], batch: int) -> float:
    """By the line through the last two batches; 0 while there are fewer."""
    if len(points) < 2 or points[-1].memory_bytes is None or points[-2].memory_bytes is None:
        return 0.0
    slope = (points[-1].memory_bytes - points[-2].memory_bytes) / (points[-1].batch - points[-2].batch)
    return points[-1].memory_bytes + max(slope, 0.0) * (batch - points[-1].batch)


def _line(points: Sequence[Point]) -> tuple[float, float]:
    """a and b of t(B) = a + b·B by least relative squares, neither below 0."""
    batches = np.array([point.batch for point in points], dtype=np.float64)
    seconds = np.array([point.seconds for point in points])
    if len(points) == 1:
        return 0.0, float(seconds[0] / batches[0])
    table = np.stack([1.0 / seconds, batches / seconds], 1)
    a, b = np.linalg.lstsq(table, np.ones_like(seconds), rcond=None)[0]
    if a < 0:  # b with a = 0
        a, b = 0.0, table[:, 1].sum() / np.square(table[:, 1]).sum()
    if b <= 0:
        a, b = 0.0, float((seconds / batches).min())
    return float(a), float(b)


def _gigabytes(size: int | None) -> str:
    return "the device" if size is None else f"{size / 2**30:.2f} GiB"
