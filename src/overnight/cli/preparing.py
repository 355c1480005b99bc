"""What the ways of `overnight prepare` share: source and folder, sentences, progress and signals."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from overnight.errors import UserError

if TYPE_CHECKING:
    from overnight.data.ingest import Progress


@dataclass(frozen=True)
class SourcesAndFolder:
    """From where and to where; ``src`` is said anew where it is something else."""

    src: Annotated[Positional[tuple[str, ...]], arg(metavar="SRC...")] = ()
    """Files, folders or globs."""

    out: Annotated[str, arg(metavar="DIR")] = ""
    """Folder for the corpus."""

    def check_out(self) -> None:
        """Raise a UserError if no folder was given."""
        if not self.out:
            raise UserError("No folder for the corpus was given.", "Add --out DIR.")

    def check(self, sources: str = "Name files, folders or globs.") -> None:
        """Raise a UserError if no folder or no source was given; ``sources`` says how to name them."""
        self.check_out()
        if not self.src:
            raise UserError("No source was given.", sources)


def run_preparation(
    work: Callable[..., dict[str, Any]], show: Callable[[dict[str, Any], Progress, float], None], stopped: str
) -> int:
    """Do the work and show what was made.

    Args:
        work: (progress=…) → manifest.
        show: takes the manifest, the counters and the seconds.
        stopped: said after Ctrl-C or SIGTERM.

    Returns:
        Exit code: 0, or 130 and 143 after Ctrl-C and SIGTERM.
    """
    started = time.perf_counter()
    try:
        with sigterm_stops(), shown_progress() as progress:
            manifest = work(progress=progress)
    except KeyboardInterrupt as stop:
        say(f"Stopped. {stopped}")
        return 143 if stop.args else 130
    show(manifest, progress, time.perf_counter() - started)
    return 0


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
