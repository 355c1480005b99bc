"""The process: threads, memory, and signals that ask it to stop."""

import ctypes
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from overnight.errors import UserError
from overnight.train.distributed import under_torchrun


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


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run folder as long as this one writes it; the lock ends with the process.

    Raises:
        UserError: if another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{folder} is being written by another process.", "Wait for it to end, or stop it."
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


class StoppedError(KeyboardInterrupt):
    """A signal asked to stop while ``StopRequest.at_once`` held."""


class StopRequest:
    """Set by SIGINT or SIGTERM; the second signal of a kind acts as usual.

    Attributes:
        signal: the first that came.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._at_once = False

    def note(self, number: int) -> None:
        """A signal came."""
        self.signal = self.signal or signal.Signals(number)
        if self._at_once:
            raise StoppedError

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """For long work that can be done again: a signal ends it by ``StoppedError``."""
        self._at_once = True
        try:
            if self.signal is not None:
                raise StoppedError
            yield
        finally:
            self._at_once = False


@contextmanager
def catch_signals() -> Iterator[StopRequest]:
    """Note SIGINT and SIGTERM instead of dying of them, so that the loop can save.

    Under torchrun the second one does not act as usual: it passes on a signal that the ranks have had already.
    """
    request = StopRequest()

    def note(number: int, _frame: FrameType | None) -> None:
        if not under_torchrun():
            signal.signal(number, before[number])
        request.note(number)

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
