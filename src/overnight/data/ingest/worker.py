"""A process of its own that runs pieces: tasks come as lines of JSON on standard input, answers go to standard output.

Plain processes rather than multiprocessing, so that a script that calls ``prepare`` needs no main guard, and a worker
holds nothing but what it works with. It ends when its standard input does, so none is left behind by a parent that was
killed.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
import traceback
from dataclasses import asdict
from typing import Any

from overnight.data.ingest.batches import write_batch
from overnight.data.ingest.piece_runner import Job, PieceReport, Work, run_piece
from overnight.data.ingest.pieces import Segment
from overnight.data.ingest.settings import PrepareSettings
from overnight.data.ingest.sources import Source
from overnight.errors import UserError


def encode_job(job: Job) -> str:
    """The job as a line."""
    return json.dumps({"settings": job.settings.as_json(), "shares": job.shares})


def encode_task(work: Work, spool: str) -> str:
    """A piece, and the file for its documents, as a line."""
    return json.dumps({"piece": [[asdict(segment), asdict(source)] for segment, source in work], "spool": spool})


def run_task(task: dict[str, Any], job: Job) -> PieceReport:
    """Run a piece into its spool file; progress goes to standard output."""
    work = [(Segment(**segment), Source(**source)) for segment, source in task["piece"]]
    with open(task["spool"], "wb") as spool:
        return run_piece(work, job, lambda batch: write_batch(spool, batch), lambda n: _answer(progress=n))


def serve() -> None:
    """Answer tasks until standard input ends."""
    # Ctrl-C reaches the whole group of processes; the parent decides what ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(lines,), daemon=True).start()
    first = json.loads(lines.get())
    job = Job(PrepareSettings.from_json(first["settings"]), tuple(first["shares"]))
    while True:
        task = json.loads(lines.get())
        try:
            _answer(report=run_task(task, job).as_json())
        except UserError as error:
            _answer(user_error=[error.problem, error.remedy])
        except OSError as error:
            _answer(os_error=[error.errno, error.strerror, str(error.filename or "")])
        except Exception:
            _answer(crash=traceback.format_exc())


def _read_lines(lines: queue.SimpleQueue[str]) -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _answer(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()
