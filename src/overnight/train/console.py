"""What a person sees while a run goes on: a live line in a terminal, plain lines elsewhere."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from overnight.metrics import METRICS
from overnight.train.record import StepRecord
from overnight.train.run import Run

PLAIN_SECONDS = 15.0


def print_prologue(run: Run, folder: Path, derived: Mapping[str, Any], step: int) -> None:
    """The batch arithmetic, and everything that was derived, before the first step."""
    console = Console(file=sys.stderr, highlight=False)
    budget = next(f"{value:g} {name}" for name in ("epochs", "steps", "minutes") if (value := getattr(run, name)))
    if derived["total_steps"] is not None and run.steps is None:
        budget += f" = {derived['total_steps']:,} steps"
    rows = {
        "run": f"{folder}" + (f", resumed at step {step:,}" if step else ""),
        "recipe": run.recipe,
        "parameters": f"{derived['parameters']:,}",
        "batch": f"{derived['batch']}; {derived['tokens_per_step']:,} {derived.get('counted', 'bytes')} a step",
        "budget": f"{budget}; {round(derived['steps_per_epoch'], 2):,.10g} steps an epoch",
        "rate": f"{derived['lr']:g} at its peak, {run.schedule.func.__name__}",
        "precision": f"{derived['precision']} ({derived['precision_reason']}), {derived['threads']} threads",
    }
    if run.parallel is not None:
        alone = "; one process: nothing is exchanged"
        rows["ranks"] = f"{run.parallel.func.__name__}{alone if derived['world_size'] == 1 else ''}"
    grid = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        grid.add_row(name, value)
    for note in run.notes:
        grid.add_row("", note)
    console.print(grid)


class ConsoleSink:
    """Prints records.

    Args:
        fraction: how much of the run is done.
        seconds_left: estimate of what is left.
        console: where to; standard error by default, so that standard output stays free for results.
    """

    def __init__(
        self, fraction: Callable[[], float], seconds_left: Callable[[], float], console: Console | None = None
    ) -> None:
        self.console = console or Console(file=sys.stderr, highlight=False)
        self._fraction, self._seconds_left = fraction, seconds_left
        self._last_plain, self._skipped = 0.0, 0
        self._live: Live | None = None
        if self.console.is_terminal:
            self._live = Live(Text("first step …"), console=self.console, refresh_per_second=4, transient=True)
            self._live.start()

    def step(self, record: StepRecord) -> None:
        if self._live is not None:
            self._live.update(self._row(record))
        elif time.monotonic() - self._last_plain >= PLAIN_SECONDS or record.skipped > self._skipped:
            self._last_plain, self._skipped = time.monotonic(), record.skipped
            self.console.print(self._words(record), soft_wrap=True)

    def evaluation(self, record: Mapping[str, Any]) -> None:
        metric = next(metric for metric in METRICS.values() if metric.name in record)
        known = math.isfinite(record["low"]) and math.isfinite(record["high"])
        interval = f"{record['low']:.4f} to {record['high']:.4f}, " if known else ""
        self.console.print(
            f"step {record['step']:,}: held-out {record[metric.name]:.4f} {metric.title} "
            f"({interval}{record[metric.counted]:,} {metric.counted})",
            soft_wrap=True,
        )

    def sample(self, record: Mapping[str, Any]) -> None:
        pass

    def decision(self, record: Mapping[str, Any]) -> None:
        self.console.print(record["text"], soft_wrap=True, markup=False)

    def say(self, sentence: str) -> None:
        """What goes on now, instead of the last step."""
        if self._live is not None:
            self._live.update(Text(sentence))
        else:
            self.console.print(sentence, soft_wrap=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _words(self, record: StepRecord) -> str:
        skipped = f"  skipped {record.skipped}" if record.skipped else ""
        if record.perplexity is not None:
            told, rate = f"perplexity {record.perplexity:,.1f}", f"{record.tokens_per_s:,.0f} words/s"
        elif record.bits_per_byte is not None:
            told, rate = f"{record.bits_per_byte:.3f} bits per byte", _rate(record.tokens_per_s)
        else:
            told, rate = f"loss {record.loss:.4f}", f"{record.tokens_per_s:,.0f} targets/s"
        return (
            f"{self._fraction():4.0%}  step {record.step:,}  {told}  "
            f"{rate}{_waiting(record)}  {_clock(self._seconds_left())} left{skipped}"
        )

    def _row(self, record: StepRecord) -> Table:
        grid = Table.grid(padding=(0, 1))
        grid.add_row(ProgressBar(total=1.0, completed=self._fraction(), width=20), Text(self._words(record).strip()))
        return grid


def _waiting(record: StepRecord) -> str:
    """What exchanges cost, where they are measured."""
    if record.sent_bytes is None:
        return ""
    sent = f"  {record.sent_bytes / 1e6:.3g} MB a step"
    if record.waiting_seconds is None or record.computing_seconds is None:
        return sent
    whole = record.waiting_seconds + record.computing_seconds
    return f"{sent}, {record.waiting_seconds / whole if whole > 0 else 0.0:.0%} waiting"


def _rate(per_second: float) -> str:
    return f"{per_second / 1e6:.2f} MB/s" if per_second >= 1e6 else f"{per_second / 1e3:.1f} kB/s"


def _clock(seconds: float) -> str:
    if seconds != seconds or seconds == float("inf"):
        return "?"
    minutes, second = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{second:02d}" if hours else f"{minutes}:{second:02d}"
