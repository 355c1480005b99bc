"""What a step takes of a device's memory, and whether an error means that there was not enough."""

import contextlib
import gc
from pathlib import Path

import torch

_STATUS, _CLEAR, _SYSTEM = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/meminfo")
_SHARE = 0.8
"""Of the free memory of a CPU: other programs want some, and running out ends the process."""


class MemoryGauge:
    """Peak memory since the last reset: of a CUDA device's allocator, or of this process.

    >>> import torch
    >>> gauge = MemoryGauge(torch.device("cpu"))
    >>> gauge.reset()
    >>> peak = gauge.peak_bytes()       # None where the system does not tell
    >>> peak is None or peak > 2**20
    True
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def reset(self) -> None:
        """Begin a new peak."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            with contextlib.suppress(OSError):  # without it the peak is that of the whole process so far
                _CLEAR.write_text("5")

    def peak_bytes(self) -> int | None:
        """Since the last reset; None where it cannot be told."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _kibibytes(_STATUS, "VmHWM:")

    def available_bytes(self) -> int | None:
        """What a step may take in all: on a CPU what this process has and 4/5 of what is free; None for no bound."""
        if self.device.type == "cuda":
            return None
        free, own = _kibibytes(_SYSTEM, "MemAvailable:"), _kibibytes(_STATUS, "VmRSS:")
        return None if free is None or own is None else own + int(_SHARE * free)

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def out_of_memory(error: BaseException) -> bool:
    """Whether this is how torch or Python says that memory has run out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def release(device: torch.device) -> None:
    """Give back what a failed step held."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _kibibytes(path: Path, name: str) -> int | None:
    try:
        line = next(line for line in path.read_text().splitlines() if line.startswith(name))
    except (OSError, StopIteration):
        return None
    return int(line.split()[1]) * 1024
