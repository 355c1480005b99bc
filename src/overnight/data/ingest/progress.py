"""How far a run has come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Progress:
    """Counters of a run under way; ``on_change`` sees them now and then.

    Args:
        bytes_total: bytes of the sources on disk; 0 where nobody knows.
        bytes_done: of them, those that were read, in this run or in the one it goes on from.
        bytes_resumed: of them, those that an earlier run had read.
        documents: documents written.
        bytes_written: bytes written to shards and offsets.
        on_change: called at most ten times a second, possibly from other threads.
    """

    bytes_total: int = 0
    bytes_done: int = 0
    bytes_resumed: int = 0
    documents: int = 0
    bytes_written: int = 0
    on_change: Callable[[Progress], None] | None = None
    started: float = field(default_factory=time.perf_counter)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _told: float = 0.0

    def read(self, size: int) -> None:
        """Add bytes read."""
        with self._lock:
            self.bytes_done += size
            self._tell()

    def wrote(self, documents: int, size: int) -> None:
        """Add documents and bytes written."""
        with self._lock:
            self.documents += documents
            self.bytes_written += size
            self._tell()

    def bytes_needed(self) -> int:
        """About how large the whole corpus gets, going by what was written so far."""
        if not self.bytes_done or not self.bytes_written or self.bytes_done >= self.bytes_total:
            return max(self.bytes_total, self.bytes_written)
        return int(self.bytes_written * self.bytes_total / self.bytes_done)

    def _tell(self) -> None:
        now = time.perf_counter()
        if self.on_change is not None and now - self._told >= 0.1:
            self._told = now
            self.on_change(self)
