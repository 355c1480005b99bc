"""The examination laid out for a terminal of 80 columns or more."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from overnight.doctor import Examination
from overnight.doctor.choices import Choice, why_not_accelerated


def show(found: Examination, console: Console) -> None:
    """Print every part, in the order in which one reads it: machine, torch, rates, choices, libraries."""
    console.print(f"overnight {found.overnight}", style="bold", highlight=False)
    _rows(console, "Machine", _machine(found))
    _rows(console, "Torch", _torch(found))
    if found.rates:
        _rates(console, found)
    _choices(console, "Precision of training", found.precision)
    _choices(console, "Recurrence", found.fast_paths)
    _libraries(console, found)


def _rows(console: Console, title: str, rows: list[tuple[str, str]]) -> None:
    table = _table(title, console)
    table.add_column(min_width=12, no_wrap=True, style="cyan")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, escape(value))
    console.print(table)


def _machine(found: Examination) -> list[tuple[str, str]]:
    m = found.machine
    cores = f"{m.cores} usable"
    if m.cores < m.cores_installed:
        cores += f" of {m.cores_installed} ({m.cores_why})"
    memory = "unknown" if m.memory_bytes is None else gigabytes(m.memory_bytes)
    if m.memory_available_bytes is not None:
        memory += f", {gigabytes(m.memory_available_bytes)} available"
    return [
        ("system", m.system),
        ("python", m.python),
        ("processor", m.cpu),
        ("cores", cores),
        ("instructions", " ".join(m.instructions) or "none of those that matter here"),
        ("memory", memory),
        ("disk", f"{gigabytes(m.disk_free_bytes)} free for {m.disk_path}"),
    ]


def _torch(found: Examination) -> list[tuple[str, str]]:
    t = found.torch
    rows = [("torch", f"{t.version}, {t.threads} threads")]
    for a in t.accelerators:
        details = [a.name]
        if a.memory_bytes is not None:
            details.append(gigabytes(a.memory_bytes))
        if a.capability:
            details.append(f"compute capability {a.capability}")
        rows.append((a.device, ", ".join(details)))
    if not t.accelerators:
        rows.append(("accelerators", t.note or "none"))
    rows.append(("distributed", " ".join(t.backends) or "not in this build"))
    why = why_not_accelerated(tuple(a.device for a in t.accelerators), found.device)
    rows.append(("trains on", f"{found.device}; {why}" if why else found.device))
    return rows


def _rates(console: Console, found: Examination) -> None:
    table = _table(f"Matrix products on {found.device}, measured", console)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(no_wrap=True)
    for title in ("float32", "bfloat16"):
        table.add_column(title, justify="right")
    table.show_header = True
    shapes: dict[tuple[str, str], list[str]] = {}
    for r in found.rates:
        shapes.setdefault((r.what, f"{r.rows}×{r.inner} · {r.inner}×{r.columns}"), []).append(_flops(r.gflops))
    for (what, shape), rates in shapes.items():
        table.add_row(what, shape, *rates)
    console.print(table)


def _choices(console: Console, title: str, choices: tuple[Choice, ...]) -> None:
    table = _table(title, console)
    table.add_column(min_width=12, no_wrap=True, style="cyan")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for choice in choices:
        table.add_row(choice.name, "[green]yes[/]" if choice.chosen else "no", escape(choice.reason))
    console.print(table)


def _libraries(console: Console, found: Examination) -> None:
    table = _table("Optional libraries", console)
    table.add_column(min_width=12, no_wrap=True, style="cyan")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_column(no_wrap=True)
    for library in found.libraries:
        extra = "" if library.version else f"overnight\\[{library.extra}]"
        table.add_row(library.name, library.version or "[yellow]missing[/]", library.purpose, extra)
    console.print(table)
    extras = sorted({library.extra for library in found.libraries if library.version is None})
    if extras:
        console.print(f"All that is missing: pip install 'overnight\\[{','.join(extras)}]'", highlight=False)


def _table(title: str, console: Console) -> Table:
    console.print(f"\n{title}", style="bold", highlight=False)
    return Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))


def gigabytes(count: int) -> str:
    """Bytes as GB, with more digits when there are few.

    >>> gigabytes(25_200_000_000), gigabytes(1_500_000_000)
    ('25 GB', '1.5 GB')
    """
    value = count / 1e9
    return f"{value:.0f} GB" if value >= 10 else f"{value:.1f} GB"


def _flops(gflops: float) -> str:
    return f"{gflops / 1000:.1f} TFLOP/s" if gflops >= 1000 else f"{gflops:.0f} GFLOP/s"
