"""The throughput curve: on a made-up device whose time and memory are known, and on this one."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from overnight.errors import UserError
from overnight.scaling.memory import MemoryGauge, out_of_memory
from overnight.scaling.throughput import Throughput, measure_throughput


class Device(MemoryGauge):
    """t(B) = 0.01 + 0.002·B seconds, 1000 + 50·B bytes; a step beyond its size fails as torch says it."""

    def __init__(self, size: int = 10**9, error: Exception | None = None) -> None:
        super().__init__(torch.device("cpu"))
        self.size, self.error = size, error or torch.OutOfMemoryError("CUDA out of memory.")
        self.now, self.peak, self.tried = 0.0, 0, []  # type: ignore[var-annotated]

    def step(self, batch: int) -> None:
        self.tried.append(batch)
        if 1000 + 50 * batch > self.size:
            raise self.error
        self.peak = max(self.peak, 1000 + 50 * batch)
        self.now += 0.01 + 0.002 * batch + (0.5 if self.tried.count(batch) == 1 else 0.0)  # the first is slow

    def reset(self) -> None:
        self.peak = 0

    def peak_bytes(self) -> int:
        return self.peak

    def available_bytes(self) -> None:
        return None

    def clock(self) -> float:
        return self.now

    def curve(self, **settings: int) -> Throughput:
        return measure_throughput(self.step, gauge=self, clock=self.clock, **settings)  # type: ignore[arg-type]


def test_the_line_is_found_and_the_first_step_left_out() -> None:
    curve = Device().curve(largest=100)
    assert [point.batch for point in curve.points] == [1, 2, 4, 8, 16, 32, 64, 100]
    assert curve.stopped_by == "limit"
    assert (curve.overhead_seconds, curve.seconds_per_sample) == (pytest.approx(0.01), pytest.approx(0.002))
    assert curve.half_speed_batch == pytest.approx(5)
    for batch in (3, 48, 1000):
        assert curve.seconds(batch) == pytest.approx(0.01 + 0.002 * batch)
        assert curve.samples_per_second(batch) == pytest.approx(batch / (0.01 + 0.002 * batch))
    assert curve.hours(36_000, 100) == pytest.approx(360 * 0.21 / 3600)
    assert curve.accumulated(400) == (4, pytest.approx(0.84))
    assert curve.accumulated(100) == (1, pytest.approx(0.21))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    ],
)
def test_out_of_memory_ends_it_and_the_largest_batch_is_closed_in_on(error: Exception) -> None:
    device = Device(size=1000 + 50 * 97, error=error)
    curve = device.curve(refinements=2)
    assert curve.stopped_by == "memory"
    assert curve.largest_batch == 96
    assert device.tried[-1] == 112


def test_a_budget_is_kept_without_trying_beyond_it() -> None:
    device = Device()
    curve = device.curve(memory_budget_bytes=1000 + 50 * 90, refinements=10)
    assert curve.largest_batch == 90
    assert max(device.tried) == 90
    assert curve.points[-1].memory_bytes == 1000 + 50 * 90


def test_what_is_not_about_memory_is_not_swallowed() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        Device(size=2000, error=RuntimeError("shapes do not fit")).curve()
    assert not out_of_memory(ValueError("out of memory"))


def test_the_smallest_batch_must_fit() -> None:
    with pytest.raises(UserError, match=r"A batch of 64 does not fit into the memory of 0.00 GiB.*smaller"):
        Device(size=2000).curve(smallest=64, memory_budget_bytes=4000)
    with pytest.raises(ValueError, match="largest must be"):
        Device().curve(smallest=64, largest=32)
    with pytest.raises(ValueError, match="repeats must be"):
        Device().curve(repeats=0)


def on_this_machine() -> None:
    model = nn.Sequential(nn.Linear(64, 2048), nn.Tanh(), nn.Linear(2048, 1))

    def step(batch: int) -> None:
        model.zero_grad()
        model(torch.zeros(batch, 64)).sum().backward()

    gauge = MemoryGauge(torch.device("cpu"))
    step(64)
    before = gauge.peak_bytes()
    assert before is not None
    gauge.reset()
    curve = measure_throughput(step, smallest=64, repeats=3, memory_budget_bytes=before + 200 * 2**20, refinements=1)
    assert curve.stopped_by == "memory"
    assert 512 <= curve.largest_batch <= 200 * 2**20 / (2 * 2048 * 4)  # two activations of 2048 a sample at least
    assert curve.seconds(8192) > curve.seconds(64)
    assert curve.points[-1].memory_bytes is not None
    assert curve.points[-1].memory_bytes <= before + 200 * 2**20


def test_on_this_machine() -> None:
    """More samples take longer, memory is seen to grow, and a budget in bytes ends the doubling.

    In a process of its own: one that has held gigabytes takes again what it has freed, and does not grow.
    """
    if MemoryGauge(torch.device("cpu")).peak_bytes() is None:
        pytest.skip("this system does not tell a process's memory")
    code = "from scaling.test_throughput import on_this_machine; on_this_machine()"
    tests = str(Path(__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], cwd=tests, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
