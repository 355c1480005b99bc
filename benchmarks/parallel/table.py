"""Prints what was measured, and what follows from it."""

import json
from pathlib import Path
from typing import Any

from benchmarks.parallel.cells import LINKS, Cell


def load(out: Path) -> dict[Cell, dict[str, Any]]:
    """The results in a folder."""
    found = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    return {Cell(**record["cell"]): record for record in found if "cell" in record}


def print_table(results: dict[Cell, dict[str, Any]]) -> None:
    """All results: times, bytes, tokens a second, quality."""
    kinds = sorted({(cell.kind, cell.model, cell.workers) for cell in results})
    for kind, model, workers in kinds:
        here = {c: r for c, r in results.items() if (c.kind, c.model, c.workers) == (kind, model, workers)}
        some = next(iter(here.values()))
        shared = f"{workers} worker{'s' * (workers > 1)} of one thread on {some['cores']} cores"
        print(f"\n{kind}, {model}: {shared}")
        if kind == "speed":
            _speed(here, results)
        elif kind == "crowd":
            _crowd(here)
        else:
            _quality(here)


def _speed(here: dict[Cell, dict[str, Any]], results: dict[Cell, dict[str, Any]]) -> None:
    print(
        f"  {'mode':<16}{'link':>9}{'ms a step':>11}{'quartiles':>15}{'mean':>9}{'waiting':>9}"
        f"{'MB sent':>9}{'meter':>8}{'formula':>9}{'tokens/s':>10}{'× ddp':>7}{'× async':>9}{'× alone':>9}"
    )
    for cell, record in sorted(here.items(), key=lambda pair: (LINKS.index(pair[0].megabits), pair[0].mode)):
        link = "free" if cell.megabits is None else f"{cell.megabits} Mb/s"
        start = f"  {cell.mode:<16}{link:>9}"
        if "failed" in record:
            print(f"{start}  failed: {record['failed'][:100]}")
            continue
        times, sent = record["step_ms"], record["bytes_per_step"]
        quarters = "–".join(f"{value:.0f}" for value in times["quartiles"])
        rate = record["tokens_per_s"]
        peers = [
            Cell("speed", cell.model, "ddp", cell.workers, cell.megabits),
            Cell("speed", cell.model, "async", cell.workers, cell.megabits),
            Cell("speed", cell.model, "ddp", 1),
        ]
        ratios = [
            f"{rate / results[peer]['tokens_per_s']:.2f}" if "tokens_per_s" in results.get(peer, {}) else ""
            for peer in peers
        ]
        print(
            f"{start}{times['median']:>11,.0f}{quarters:>15}{times['mean']:>9,.0f}"
            f"{_number(record.get('waiting_ms')):>9}{sent['interface'] / 1e6:>9.2f}{_number(sent.get('meter'), 6):>8}"
            f"{_number(sent.get('formula'), 6):>9}{rate:>10,.0f}{ratios[0]:>7}{ratios[1]:>9}{ratios[2]:>9}"
        )


def _crowd(here: dict[Cell, dict[str, Any]]) -> None:
    print(f"  {'mode':<20}{'ms a step':>11}")
    for cell, record in sorted(here.items(), key=lambda pair: pair[0].mode):
        if "failed" in record:
            print(f"  {cell.mode:<20}  failed: {record['failed'][:100]}")
            continue
        print(f"  {cell.mode:<20}{record['step_ms']['mean']:>11,.0f}")


def _quality(here: dict[Cell, dict[str, Any]]) -> None:
    print(
        f"  {'mode':<16}{'link':>9}{'seed':>6}{'steps':>8}{'tokens':>12}{'seconds':>9}{'ms a step':>11}"
        f"{'MB sent':>9}{'quality':>10}{'÷ ddp':>8}"
    )
    for cell, record in sorted(here.items(), key=lambda pair: (pair[0].mode, pair[0].seed)):
        link = "free" if cell.megabits is None else f"{cell.megabits} Mb/s"
        start = f"  {cell.mode:<16}{link:>9}{cell.seed:>6}"
        if "failed" in record:
            print(f"{start}  failed: {record['failed'][:100]}")
            continue
        peer = here.get(Cell(cell.kind, cell.model, "ddp", cell.workers, cell.megabits, cell.seed), {})
        value = record.get("quality")
        ratio = "" if value is None or "quality" not in peer else f"{value / peer['quality']:.4f}"
        shown = "" if value is None else f"{value:.3f}"
        sent = record["bytes_per_step"]["interface"] / 1e6
        print(
            f"{start}{record['steps']:>8,}{record['tokens']:>12,}{record['seconds']:>9.0f}"
            f"{record['step_ms']['mean']:>11,.0f}{sent:>9.2f}{shown:>10}{ratio:>8}"
        )


def _number(value: float | None, power: int = 0) -> str:
    if value is None:
        return ""
    return f"{value / 10**power:.2f}" if power else f"{value:,.0f}"
