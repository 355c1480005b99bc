"""What was measured laid out for a terminal of 80 columns or more."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from overnight.doctor.bench import Bench, Trained
from overnight.doctor.page import gigabytes


def show(found: Bench, console: Console) -> None:
    """Print a line for every model, then what they ran with and why."""
    text = size(found.text_bytes)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("preset", style="cyan", no_wrap=True)
    for title in ("units", "batch × bytes", "bytes/s", "s/step", "memory", f"one pass of {text}"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in found.trained:
        table.add_row(
            ", ".join(one.names), f"{one.hidden_size:,}", f"{one.global_batch_size} × {one.length}", *_row(one)
        )
    console.print(table)
    console.print()
    for one in found.trained:
        if one.skipped:
            console.print(f"{', '.join(one.names)}: not measured, {one.skipped}.", highlight=False)
    if any(_extrapolated(one) for one in found.trained):
        console.print("~ extrapolated from shorter windows; --minutes allows longer ones.", highlight=False)
    threads = f", {found.threads} threads" if found.device == "cpu" else ""
    memory = "" if found.memory_bytes is None else f", {gigabytes(found.memory_bytes)} can be used"
    for line in (
        f"device      {found.device}{threads}{memory}",
        f"precision   {found.precision.name}: {found.precision.reason}",
        f"recurrence  {found.recurrence.name}: {found.recurrence.reason}",
    ):
        console.print(escape(line), highlight=False)


def _row(one: Trained) -> list[str]:
    about = "~" if _extrapolated(one) else ""
    if one.speed is None or one.epoch_seconds is None:
        return ["", "", gigabytes(one.memory_bytes), ""]
    seconds = one.speed.step_seconds
    return [
        f"{about}{one.speed.bytes_per_s:,.0f}",
        f"{about}{seconds:.3f}" if seconds < 10 else f"{about}{seconds:,.0f}",
        gigabytes(one.memory_bytes),
        f"{about}{duration(one.epoch_seconds)}",
    ]


def _extrapolated(one: Trained) -> bool:
    return one.speed is not None and one.speed.window < one.length


def size(count: int) -> str:
    """A number of bytes with the unit that suits it.

    >>> size(999), size(63_240_000), size(40_000_000_000)
    ('999 bytes', '63.2 MB', '40 GB')
    """
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count} bytes"


def duration(seconds: float) -> str:
    """As a person would say it.

    >>> duration(0.4), duration(95), duration(1500), duration(5400), duration(3e5), duration(1e8)
    ('0.4 s', '95 s', '25 minutes', '1.5 hours', '3.5 days', '3.2 years')
    """
    for name, unit, limit in (("s", 1, 120), ("minutes", 60, 5400), ("hours", 3600, 172_800), ("days", 86_400, 5e7)):
        if seconds < limit:
            return f"{seconds / unit:.{int(seconds < 10 * unit)}f} {name}"
    return f"{seconds / 31_557_600:.1f} years"
