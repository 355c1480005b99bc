"""Runs the workers of a session, each on a host of its own, and puts together what they saw."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import torch
from multihost.network import PORT, Host, Network

from benchmarks.parallel.cells import Cell

ROOT = Path(__file__).parents[2]
START_SECONDS = 120.0
"""For workers to start, on a busy machine."""


@dataclass(frozen=True)
class Settings:
    """Of all cells.

    Attributes:
        out: folder of the results.
        corpus: of words, for models with 10,000 of them.
        seconds: for a cell of speed.
        tokens, train_seconds: length of a training, over all workers: of cells of kind tokens, and of kind time.
        tiny: models of a moment.
    """

    out: Path
    corpus: Path | None
    seconds: float
    tokens: int
    train_seconds: float
    tiny: bool

    @property
    def timeout(self) -> float:
        """Seconds after which a worker gives up on another: rank 0 evaluates meanwhile, or a slow link is at work."""
        return 300.0


def path_of(cell: Cell, out: Path) -> Path:
    return out / f"{cell.name}.json"


def run_session(cells: Sequence[Cell], settings: Settings, limit: float) -> None:
    """Measure cells that the same processes can, and write each one's file; one that fails has the reason in it.

    Args:
        cells: see ``cells.sessions``.
        settings: of all.
        limit: seconds after which the workers are killed.
    """
    crowd = cells[0].kind == "crowd"
    # a parameter server has a host of its own
    workers = cells[0].workers + (cells[0].mode.startswith("async") and not crowd)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name, Network(workers) as network:
        folder = Path(name)
        work = folder / "session.json"
        work.write_text(
            json.dumps(
                {
                    "cells": [cell.plain() for cell in cells],
                    "corpus": None if settings.corpus is None else str(settings.corpus.resolve()),
                    "seconds": settings.seconds, "tokens": settings.tokens,
                    "train_seconds": settings.train_seconds, "tiny": settings.tiny, "timeout": settings.timeout,
                }
            )
        )  # fmt: skip
        env = {
            "MASTER_PORT": "29500", "WORLD_SIZE": str(1 if crowd else workers),
            "GLOO_SOCKET_IFNAME": PORT, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        argv = [sys.executable, "-m", "benchmarks.parallel.worker", str(work)]
        logs = [folder / f"{rank}.log" for rank in range(workers)]
        running = [
            host.start(argv, logs[place], env | _names(place, host if crowd else network.hosts[0], crowd))
            for place, host in enumerate(network.hosts)
        ]
        for process in running:
            _as_urgent(process.pid)
        reason = _follow(cells, network, running, folder, limit)
        for cell in cells:
            record = {
                "cell": cell.plain(), "date": date.today().isoformat(), "torch": torch.__version__,
                "cores": len(os.sched_getaffinity(0)), "threads_per_worker": 1, "load_before": load,
                "tiny": settings.tiny,
            }  # fmt: skip
            parts = [folder / f"{cell.name}.{rank}.json" for rank in range(workers)]
            if all(part.exists() for part in parts):
                found = [json.loads(part.read_text()) for part in parts]
                record |= _crowded(found) if crowd else _merged(found)
            else:
                record["failed"] = reason or _last_words(logs)
                _keep(logs, settings.out / f"{cell.name}.log")
            path = path_of(cell, settings.out)
            path.with_suffix(".tmp").write_text(json.dumps(record, indent=1) + "\n")
            path.with_suffix(".tmp").replace(path)


def _names(place: int, first: Host, crowd: bool) -> dict[str, str]:
    """Who a worker is: in a crowd each is the first and only one of its group."""
    rank = str(0 if crowd else place)
    return {"MASTER_ADDR": first.address, "PLACE": str(place), "RANK": rank, "LOCAL_RANK": rank}


def _as_urgent(process: int) -> None:
    """Give a worker this process's share of the cores: Linux puts each new session in a group of its own at nice 0."""
    own = Path("/proc/self/autogroup")
    if own.exists():
        Path(f"/proc/{process}/autogroup").write_text(own.read_text().split()[-1])


def _follow(
    cells: Sequence[Cell], network: Network, running: list[subprocess.Popen[bytes]], folder: Path, limit: float
) -> str | None:
    """Throttle links as the workers ask, until they have ended; returns why they had to be killed."""
    end = time.monotonic() + limit
    left = list(cells)
    while any(process.poll() is None for process in running):
        if left and (folder / f"{left[0].name}.wanted").exists():
            for host in network.hosts:
                host.throttle(left[0].megabits)
            (folder / f"{left.pop(0).name}.set").touch()
        if any(process.poll() not in (None, 0) for process in running):
            time.sleep(2.0)  # let the others say what they have seen
            return None
        if time.monotonic() > end:
            return f"killed after {limit:.0f} s"
        time.sleep(0.02)
    return None


def _merged(ranks: list[dict[str, Any]]) -> dict[str, Any]:
    """The first worker's times, with all workers' tokens, their mean bytes and waiting, and what the server knows."""
    server: dict[str, Any] = {}
    if "step_ms" not in ranks[0] or "staleness" in ranks[0]:
        server, *ranks = ranks
    found = dict(ranks[0]) | {name: server[name] for name in ("quality", "staleness") if name in server}
    for name in ("waiting_ms", "exchanging_ms"):
        if name in found:
            found[name] = statistics.mean(rank[name] for rank in ranks)
    found["bytes_per_step"] = {
        name: statistics.mean(rank["bytes_per_step"][name] for rank in ranks) for name in found["bytes_per_step"]
    }
    found["tokens_per_s"] = sum(1e3 * rank["tokens_per_step"] / rank["step_ms"]["mean"] for rank in ranks)
    if "tokens" in found:
        found["tokens"] = sum(rank["tokens"] for rank in ranks)
        found["seconds"] = max(rank["seconds"] for rank in ranks)
    return found


def _crowded(workers: list[dict[str, Any]]) -> dict[str, Any]:
    """One step of all takes n / Σ (1 / a worker's mean): with nobody to wait for, some get more of the cores."""
    means = [worker["step_ms"]["mean"] for worker in workers]
    return {
        "steps": sum(worker["steps"] for worker in workers),
        "step_ms": {"mean": statistics.harmonic_mean(means)},
        "each_ms": means,
    }


def _keep(logs: list[Path], path: Path) -> None:
    path.write_text("\n".join(f"-- rank {i}\n{log.read_text(errors='replace')}" for i, log in enumerate(logs)))


def _last_words(logs: list[Path]) -> str:
    """The last line of each rank that said something, and all that they said beside the results."""
    said = [log.read_text(errors="replace").strip().splitlines() for log in logs]
    return " | ".join(f"{rank}: {lines[-1][:300]}" for rank, lines in enumerate(said) if lines)
