"""What the ways of `overnight prepare` share: sentences, progress and signals."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from overnight.data.ingest import Progress


def say(message: str) -> None:
    """A sentence on standard error."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def sigterm_stops() -> Iterator[None]:
    """SIGTERM takes the way of Ctrl-C, so that files and workers are closed in order."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Counters, drawn as a bar where standard error is a terminal."""
    from overnight.data.ingest import Progress

    if not sys.stderr.isatty():
        yield Progress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("prepare", total=None)

        def draw(progress: Progress) -> None:
            bar.update(task, total=progress.bytes_total or None, completed=progress.bytes_done)

        yield Progress(on_change=draw)
