"""Worker processes, from the side of the one that started them."""

from __future__ import annotations

import json
import os
import queue
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import overnight
from overnight.data.ingest.piece_runner import Job, PieceReport, Work
from overnight.data.ingest.worker import encode_job, encode_task
from overnight.errors import UserError


class WorkerLostError(UserError):
    """A worker process ended in the middle of a piece; what was done before it is kept."""


class Pool:
    """Runs pieces in ``workers`` processes, each into a spool file.

    Args:
        workers: how many.
        job: what all pieces share.
        folder: for the spool files.
        progress: called from other threads with the bytes read since the last call.
    """

    def __init__(self, workers: int, job: Job, folder: Path, progress: Callable[[int], None]) -> None:
        self._folder, self._progress = folder, progress
        self._all: list[subprocess.Popen[str]] = []
        self._idle: queue.SimpleQueue[subprocess.Popen[str]] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(workers)
        for _ in range(workers):
            self._start(job)

    def _start(self, job: Job) -> None:
        environment = dict(os.environ)
        root = str(Path(overnight.__file__).parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
        process = subprocess.Popen(
            [sys.executable, "-c", "from overnight.data.ingest.worker import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="ascii",
            env=environment,
        )
        self._all.append(process)
        self._idle.put(process)
        self._send(process, encode_job(job))

    @staticmethod
    def _send(process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()

    def submit(self, number: int, work: Work) -> Future[tuple[PieceReport, Path]]:
        """Start a piece when a worker is free; the result is its report and its spool file."""
        return self._threads.submit(self._run, number, work)

    def _run(self, number: int, work: Work) -> tuple[PieceReport, Path]:
        process = self._idle.get()
        spool = self._folder / str(number)
        assert process.stdout is not None
        try:
            self._send(process, encode_task(work, str(spool)))
            for line in process.stdout:
                answer = json.loads(line)
                if "progress" not in answer:
                    return self._result(answer), spool
                self._progress(answer["progress"])
        except BrokenPipeError:
            pass
        finally:
            self._idle.put(process)
        names = ", ".join(source.path for _, source in work[:3])
        raise WorkerLostError(
            f"A worker process ended (exit status {process.wait()}) while it read {names}.",
            "Start the same command again, it goes on at this piece; with fewer --workers where memory ran out.",
        )

    @staticmethod
    def _result(answer: dict[str, Any]) -> PieceReport:
        if "user_error" in answer:
            raise UserError(*answer["user_error"])
        if "os_error" in answer:
            raise OSError(*answer["os_error"])
        if "crash" in answer:
            raise RuntimeError(f"a worker process failed:\n{answer['crash']}")
        return PieceReport.from_json(answer["report"])

    def close(self) -> None:
        """End the workers, whatever they are at."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._all:
            process.kill()
        for process in self._all:
            process.wait()
        self._threads.shutdown(wait=True)
        for process in self._all:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()


def run_in_pool(pool: Pool, pieces: Sequence[tuple[int, Work]], ahead: int) -> Iterator[tuple[PieceReport, Path]]:
    """Results in order, with at most ``ahead`` pieces begun before the one that is waited for."""
    waiting: list[Future[tuple[PieceReport, Path]]] = []
    rest = iter(pieces)
    while True:
        while len(waiting) < ahead and (item := next(rest, None)) is not None:
            waiting.append(pool.submit(*item))
        if not waiting:
            return
        yield waiting.pop(0).result()


@contextmanager
def open_pool(workers: int, job: Job, folder: Path, progress: Callable[[int], None]) -> Iterator[Pool]:
    """A pool whose processes end with the block, and whose spool files go with them."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    pool = Pool(workers, job, folder, progress)
    try:
        yield pool
    finally:
        pool.close()
        shutil.rmtree(folder, ignore_errors=True)
