"""What `overnight train` says at the end: a sample, a table, the report's path, and what to type next."""

import os
import signal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from overnight.cli.rating_table import rating_table
from overnight.cli.terminal import without_controls
from overnight.errors import UserError
from overnight.metrics import METRICS, Metric


def print_outcome(folder: Path, summary: dict[str, Any]) -> int:
    """Print the outcome on rank 0; returns the exit code, on every rank."""
    main = os.environ.get("RANK", "0") == "0"
    console = Console(highlight=False)
    if summary["state"] == "stopped":
        if main:
            console.print(f"{summary['reason']} Go on with it:\n  overnight train {folder} --resume", soft_wrap=True)
        return 128 + signal.Signals[summary["signal"]]
    if not main:
        return 0
    text = _last_sample(folder)
    if text:
        console.rule("a sample")
        shown = without_controls(text) if console.is_terminal else text
        console.print(shown, markup=False, soft_wrap=True)
        console.rule()
    if summary["final"] is not None:
        final, metric = summary["final"], _metric(summary["final"])
        counted = f"{final[metric.counted]:,} {metric.counted}"
        console.print(f"held-out {metric.title} ({counted} of {final['split']})", soft_wrap=True)
        console.print(_table(summary, metric) if "ranking" not in final else rating_table(final, summary["baselines"]))
        if final.get("bleu") is not None:
            console.print(f"BLEU {final['bleu']:.2f} ({final['bleu_signature']})", soft_wrap=True)
    console.print(f"report      {_report(folder)}", markup=False, soft_wrap=True)
    if summary["final"] is not None and _metric(summary["final"]).counted != "bytes":
        console.print(f"test        overnight evaluate {folder} --split test", soft_wrap=True)
        if "ranking" in summary["final"]:
            console.print(f"recommend   overnight recommend {folder} --user ID", soft_wrap=True)
    else:
        console.print(f"generate    overnight generate {folder}", soft_wrap=True)
    return 0


def _metric(final: dict[str, Any]) -> Metric:
    return next(metric for metric in METRICS.values() if metric.name in final)


def _table(summary: dict[str, Any], metric: Metric) -> Table:
    final = summary["final"]
    table = Table()
    table.add_column("")
    table.add_column(metric.title, justify="right")
    rows = [(item["name"], item[metric.name]) for item in summary["baselines"]]
    rows.append(("this model", final[metric.name]))
    for name, value in sorted(rows, key=lambda row: row[1], reverse=not metric.higher_is_better):
        style = "bold" if name == "this model" else ""
        table.add_row(name, f"{value:.4f}", style=style)
    return table


def _last_sample(folder: Path) -> str | None:
    import json

    try:
        lines = (folder / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        return str(json.loads(lines[-1])["text"])
    except (OSError, ValueError, IndexError, KeyError):
        return None


def _report(folder: Path) -> str:
    """Where the report is, or why there is none: the model is saved all the same."""
    from overnight.report import write_report

    try:
        return str(write_report([folder]))
    except (UserError, OSError) as error:
        return str(error)
