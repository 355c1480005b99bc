"""The process: threads, memory, and signals that ask it to stop."""

import ctypes
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks instead of giving them back to the system; False where there is no glibc.

    A recurrent step frees and takes hundreds of MB of activations; by default each is mapped anew and every page
    faults. Measured at 1024 units, batch 128, 64 bytes, two cores: 578 → 454 ms a step (docs/results.md).
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return False
    m_trim_threshold, m_mmap_max = -1, -4  # malloc.h
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(m_mmap_max, 0) and libc.mallopt(m_trim_threshold, 2**31 - 1))


def set_threads(threads: int | None) -> int:
    """Set torch's CPU threads, or leave its choice; returns how many there are."""
    if threads is not None:
        torch.set_num_threads(threads)
    return torch.get_num_threads()


class StopRequest:
    """Set by SIGINT or SIGTERM; the second signal of a kind acts as usual."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Note SIGINT and SIGTERM instead of dying of them, so that the loop can save."""
    request = StopRequest()

    def note(number: int, _frame: FrameType | None) -> None:
        request.signal = signal.Signals(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            before[number] = signal.signal(number, note)
        except ValueError:  # not in the main thread: the caller's signals are the caller's
            break
    try:
        yield request
    finally:
        for caught, handler in before.items():
            signal.signal(caught, handler)
