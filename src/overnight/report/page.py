"""The page: what the runs say, set into the template and written in one piece."""

import contextlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import overnight
from overnight.errors import UserError
from overnight.report import curves, units
from overnight.report.entry import Entry, baselines_of, cautions_of, read_entries
from overnight.report.measure import ACCURACY, PERPLEXITY, RMSE, Measure, measure_of
from overnight.report.panels import panels_of
from overnight.report.ratings import read_rated
from overnight.report.read import Evaluation
from overnight.report.settings import commands_of, rows_of
from overnight.report.texts import texts_of
from overnight.report.transfer import read_transfers

TEMPLATES = Path(__file__).parent / "template"


@dataclass(frozen=True)
class Bar:
    """One line of the held-out comparison; `run` is None for a baseline. Places are shares of the bar's full width."""

    name: str
    run: int | None
    score: float
    place: float
    low: float | None = None
    high: float | None = None


def write_report(runs: Sequence[str | Path], out: str | Path | None = None) -> Path:
    """Write one self-contained HTML page that shows a run or compares several, and return its path.

    Args:
        runs: run folders (docs/run-folder.md); a run may be unfinished.
        out: the file to write; by default RUN/report/index.html for one run, ./overnight-report.html for several.

    Raises:
        UserError: a folder is not a run that this version reads, `out` cannot be written, or jinja2 is not installed.
    """
    if not runs:
        raise UserError("There is no run to report on.", "Give one or more run folders.")
    entries = read_entries([Path(run) for run in runs])
    if out is not None:
        target = Path(out)
    elif len(entries) == 1:
        target = entries[0].record.path / "report" / "index.html"
    else:
        target = Path("overnight-report.html")
    write_page(target, render(entries))
    return target


def render(entries: Sequence[Entry]) -> str:
    """The page of `entries` as HTML.

    Raises:
        UserError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError as error:
        raise UserError("The report needs jinja2.", "Install it with: pip install 'overnight[report]'") from error
    measure = measure_of(entries)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        score=measure.write,
        si=units.si,
        whole=units.whole,
        plain=units.plain,
        duration=units.duration,
        moment=units.moment,
    )
    transfers, transfer_problems = read_transfers(entries)
    rated, rated_problems = read_rated(entries)
    bars, skipped = bars_of(entries, measure), [entry.facts.skipped for entry in entries]
    title = entries[0].label if len(entries) == 1 else f"{len(entries)} runs compared"
    return environment.get_template("page.html").render(
        title=title,
        version=overnight.__version__,
        entries=entries,
        bars=bars,
        verdict=verdict_of(bars, measure),
        measure=measure,
        unskipped=all(count == 0 for count in skipped),
        cautions=cautions_of(entries),
        panels=panels_of(entries),
        size=curves.SIZE,
        transfers=transfers,
        transfer_problems=transfer_problems,
        rated=rated,
        rated_problems=rated_problems,
        interval=lambda scored: measure.interval(scored.low, scored.high) if scored else "",
        unknown=units.NONE,
        texts={entry.index: texts_of(entry.record.samples) for entry in entries},
        settings=rows_of([entry.record.run for entry in entries]),
        derived=rows_of([entry.record.derived for entry in entries]),
        environment=rows_of([entry.record.environment for entry in entries]),
        commands={entry.index: commands_of(entry.record) for entry in entries},
    )


def bars_of(entries: Sequence[Entry], measure: Measure) -> list[Bar]:
    """The runs' final held-out scores among the baselines, best first, on one scale from zero."""
    finals = [(entry, entry.facts.final) for entry in entries]
    rows = [
        (final.score, entry.label, entry.index, final)
        for entry, final in finals
        if final is not None and final.score is not None
    ]
    levels = [(value, name) for name, value in baselines_of(entries).items()]
    full = max([row[0] for row in rows] + [level[0] for level in levels], default=1.0) or 1.0
    bars = [_bar(label, index, final, value, full) for value, label, index, final in rows]
    bars += [Bar(name, None, value, value / full) for value, name in levels]
    return sorted(bars, key=lambda bar: bar.score, reverse=measure.higher_is_better)


def verdict_of(bars: Sequence[Bar], measure: Measure) -> str:
    """How one run stands to the best baseline, in words; nothing for several runs or none."""
    runs = [bar for bar in bars if bar.run is not None]
    others = [bar for bar in bars if bar.run is None]
    if len(runs) != 1 or not others or not others[0].score:
        return ""
    if measure is ACCURACY:
        write = measure.write
        return f"The run names {write(runs[0].score)} of the images rightly, {others[0].name} {write(others[0].score)}."
    ratio = runs[0].score / others[0].score
    if measure in (PERPLEXITY, RMSE):
        word = "lower" if ratio < 1 else "higher"
        name = "perplexity" if measure is PERPLEXITY else "RMSE"
        return f"The run's {name} is {100 * abs(1 - ratio):.1f} % {word} than that of {others[0].name}."
    word = "fewer" if ratio < 1 else "more"
    return f"The run needs {100 * abs(1 - ratio):.1f} % {word} bits than {others[0].name}, the best of the others."


def _bar(name: str, run: int, final: Evaluation, value: float, full: float) -> Bar:
    known = final.low is not None and final.high is not None
    low, high = ((final.low or 0.0) / full, (final.high or 0.0) / full) if known else (None, None)
    return Bar(name, run, value, value / full, low, high)


def write_page(target: Path, html: str) -> None:
    """Write aside, sync and rename, so that no reader ever meets half a page.

    Raises:
        UserError: it cannot be written.
    """
    if target.is_dir():
        raise UserError(f"{target} is a folder.", "Give --out the name of a file, such as report.html.")
    aside: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(html)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(aside, 0o666 & ~umask)
        os.replace(aside, target)
    except OSError as error:
        if aside:
            with contextlib.suppress(OSError):
                os.unlink(aside)
        reason = error.strerror or str(error)
        raise UserError(f"{target} cannot be written: {reason}.", "Choose another place with --out.") from error
