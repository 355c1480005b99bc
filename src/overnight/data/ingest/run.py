"""The pieces of a run one after another into the shards, with a record of how far it has come."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

import overnight
from overnight.data.ingest.batches import Batch, read_batches
from overnight.data.ingest.dedup import Seen
from overnight.data.ingest.faults import LISTED
from overnight.data.ingest.fields import Replay
from overnight.data.ingest.folder import FORMAT, CorpusFolder
from overnight.data.ingest.piece_runner import Job, PieceReport, Work, run_piece
from overnight.data.ingest.pool import open_pool, run_in_pool
from overnight.data.ingest.progress import Progress
from overnight.data.ingest.settings import SPLITS
from overnight.data.ingest.shards import ShardWriter
from overnight.data.ingest.sources import STDIN, Source

_COUNTS = ("duplicates", "invalid_utf8", "empty", "skipped")
_COMMIT_SECONDS = 1.0


class Run:
    """The pieces of one run, from where it begins to the last.

    Args:
        folder: where to.
        sources: all of them, in reading order.
        pieces: those of this run, in reading order.
        job: the settings.
        progress: counters to keep up to date.
        stdin: what to read for "-".
        state: of the interrupted run to go on from.
        runner: what makes documents of a piece; None: ``run_piece``.
    """

    def __init__(
        self,
        folder: CorpusFolder,
        sources: Sequence[Source],
        pieces: Sequence[Work],
        job: Job,
        progress: Progress,
        stdin: Replay | None,
        state: dict[str, Any] | None,
        runner: Callable[..., PieceReport] | None = None,
    ) -> None:
        self.folder, self.sources, self.pieces, self.job = folder, sources, pieces, job
        self.progress, self.stdin, self.runner = progress, stdin, runner or run_piece
        self.done: int = state["pieces_done"] if state else 0
        self.counts: dict[str, int] = dict(state["counts"]) if state else dict.fromkeys(_COUNTS, 0)
        self.errors: list[Any] = list(state["errors"]) if state else []
        self.documents = {int(k): v for k, v in state["documents"].items()} if state else {}
        self.state = state

    def go(self, workers: int) -> None:
        """Do all pieces that are left."""
        state = self.state or {"splits": {}}
        self.folder.drop_later_shards(
            {split: len(s["shards"]) + bool(s["open"]) for split, s in state["splits"].items()}
        )
        sizes = [sum(segment.bytes for segment, _ in piece) for piece in self.pieces]
        self.progress.bytes_total = sum(sizes)
        self.progress.bytes_done = self.progress.bytes_resumed = sum(sizes[: self.done])
        limit = self.job.settings.shard_bytes
        with ExitStack() as stack:
            background = stack.enter_context(ThreadPoolExecutor(1))
            self.writers = {}
            for split in SPLITS:
                writer = ShardWriter(self.folder.path, split, limit, background, state["splits"].get(split))
                self.writers[split] = writer
                stack.callback(writer.abandon)
            self.progress.wrote(
                sum(w.documents for w in self.writers.values()),
                sum(w.bytes + 8 * w.documents for w in self.writers.values()),
            )
            self.seen = None
            if self.job.settings.dedup:
                self.seen = Seen(self.folder.partial, state.get("seen"))
                stack.callback(self.seen.close)
            self._all_pieces(workers)
            for writer in self.writers.values():
                writer.finish()

    def _all_pieces(self, workers: int) -> None:
        committed = time.monotonic()
        reports = self._here() if workers <= 1 else self._in_workers(workers)
        with closing(reports):
            for report in reports:
                self._account(report)
                if time.monotonic() - committed >= _COMMIT_SECONDS:
                    self._commit()
                    committed = time.monotonic()

    def _here(self) -> Generator[PieceReport, None, None]:
        for work in self.pieces[self.done :]:
            yield self.runner(work, self.job, self._write, self.progress.read, self.stdin)

    def _in_workers(self, workers: int) -> Generator[PieceReport, None, None]:
        left = list(enumerate(self.pieces))[self.done :]
        with open_pool(workers, self.job, self.folder.partial / "spool", self.progress.read) as pool:
            for report, spool in run_in_pool(pool, left, 2 * workers):
                with open(spool, "rb") as file:
                    for batch in read_batches(file):
                        self._write(batch)
                spool.unlink()
                yield report

    def _write(self, batch: Batch) -> None:
        if self.seen is not None:
            before = len(batch.sizes)
            batch = self.seen.drop_known(batch)
            self.counts["duplicates"] += before - len(batch.sizes)
        self.writers[batch.split].append(batch)
        self.progress.wrote(len(batch.sizes), len(batch.data) + 8 * len(batch.sizes))

    def _account(self, report: PieceReport) -> None:
        self.done += 1
        for name in ("invalid_utf8", "empty", "skipped"):
            self.counts[name] += getattr(report, name)
        self.errors = (self.errors + report.errors)[:LISTED]
        for source, documents in report.documents.items():
            self.documents[source] = self.documents.get(source, 0) + documents

    def _commit(self) -> None:
        splits = {split: writer.state() for split, writer in self.writers.items()}
        self.folder.note(
            {
                "pieces_done": self.done,
                "splits": splits,
                "seen": self.seen.state() if self.seen is not None else None,
                "counts": self.counts,
                "errors": self.errors,
                "documents": self.documents,
            }
        )

    def manifest(self, settings: dict[str, Any], part: tuple[int, int] | None) -> dict[str, Any]:
        """The manifest of the finished corpus."""
        sizes: dict[int, int] = {}
        for work in self.pieces:
            for segment, _ in work:
                sizes[segment.source] = sizes.get(segment.source, 0) + segment.bytes
        if self.stdin is not None:
            sizes[next(i for i, s in enumerate(self.sources) if s.path == STDIN)] = self.stdin.bytes
        splits = {
            split: {"bytes": writer.bytes, "documents": writer.documents, "shards": writer.shards}
            for split, writer in self.writers.items()
        }
        totals = {name: sum(s[name] for s in splits.values()) for name in ("documents", "bytes")}  # type: ignore[misc]
        return {
            "format": FORMAT,
            "overnight": overnight.__version__,
            "settings": settings,
            "part": list(part) if part else None,
            "sources": [
                {"path": self.sources[i].path, "bytes": size, "documents": self.documents.get(i, 0)}
                for i, size in sorted(sizes.items())
            ],
            "counts": {**totals, **self.counts},
            "errors": self.errors,
            "splits": splits,
        }
