"""From sources to a corpus folder."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import overnight
from overnight.data.ingest.continuing import already_there, resume_state
from overnight.data.ingest.disk import write_error
from overnight.data.ingest.fields import Replay, guess_text_field
from overnight.data.ingest.folder import CorpusFolder
from overnight.data.ingest.piece_runner import Job, Work
from overnight.data.ingest.pieces import PIECE_BYTES, parquet_row_groups, part_piece_bytes, plan_pieces, take_part
from overnight.data.ingest.pool import WorkerLostError
from overnight.data.ingest.progress import Progress
from overnight.data.ingest.records import holds_lines
from overnight.data.ingest.run import Run
from overnight.data.ingest.settings import SPLITS, PrepareSettings
from overnight.data.ingest.sources import STDIN, Source, find_sources, sources_digest
from overnight.data.ingest.streams import BrokenInputError, open_stream
from overnight.errors import UserError


def log(message: str) -> None:
    """Tell in the log, where no other way was given."""
    logging.getLogger("overnight").info(message)


def prepare(
    sources: Sequence[str | Path],
    out: str | Path,
    settings: PrepareSettings | None = None,
    *,
    format: str | None = None,
    valid: Sequence[str | Path] = (),
    test: Sequence[str | Path] = (),
    workers: int = 1,
    part: tuple[int, int] | None = None,
    force: bool = False,
    stdin: Any = None,
    notify: Callable[[str], None] = log,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Turn text files into a corpus folder (docs/corpus-format.md), in constant memory.

    The same sources and settings give the same bytes, whatever the number of workers. A run that is interrupted leaves
    no manifest, and the same call goes on at the piece that was under way; one that fails leaves nothing.

    Args:
        sources: files, folders, globs, or "-" for standard input.
        out: the corpus folder to write.
        settings: everything that decides the bytes.
        format: read all sources as this format, such as ``txt`` or ``jsonl.gz``, whatever their names say.
        valid: sources that go whole to the split valid, which then gets nothing else. They are read before the others.
        test: likewise for test.
        workers: processes that read and clean; with 1 this process does it.
        part: (i, n) prepares the i-th of n shares of the sources, to be joined by ``join_parts``.
        force: replace the corpus or the interrupted run in ``out``.
        stdin: binary readable for "-".
        notify: told in a sentence of guesses and of what was found in ``out``.
        progress: counters to keep up to date.

    Returns:
        The manifest.

    Raises:
        UserError: bad sources or settings, malformed records, a folder of something else, a full disk.

    >>> import tempfile
    >>> scratch = tempfile.TemporaryDirectory()
    >>> folder = Path(scratch.name)
    >>> _ = (folder / "a.txt").write_text("one\\ntwo\\n")
    >>> manifest = prepare([folder], folder / "corpus", PrepareSettings(document="line", split=(1, 0, 0)))
    >>> (folder / "corpus" / "train" / "00000.bin").read_bytes()
    b'one\\ntwo\\n'
    >>> scratch.cleanup()
    """
    settings = settings or PrepareSettings()
    folder = CorpusFolder(Path(out))
    found = _all_sources(sources, valid, test, format, folder)
    piped = next((source for source in found if source.path == STDIN), None)
    if piped and part:
        raise UserError("Standard input cannot be shared out in parts.", "Give files, or leave --part away.")
    stream = Replay(stdin or sys.stdin.buffer) if piped else None
    settings = _with_text_field(_with_document(settings, found, notify), found, stream, notify)
    heldout = _heldout(valid, test)
    described = {**settings.as_json(), "heldout": heldout, "sources_sha256": sources_digest(found)}
    job = Job(settings, _shares(settings, heldout))

    folder.refuse_foreign()
    finished = folder.finished()
    if finished is not None and not force:
        return already_there(finished, folder, described, part, bool(piped), notify)

    pieces = _plan(found, settings, part)
    plan = {
        "settings": described,
        "part": part and list(part),
        "sources": [[s.path, s.bytes, s.mtime_ns] for s in found],
        "pieces": len(pieces),
        "overnight": overnight.__version__,
    }
    with folder.locked():
        state = None if force else resume_state(folder, plan, bool(piped), notify)
        run = Run(folder, found, pieces, job, progress or Progress(), stream, state)
        try:
            if state is None:
                folder.begin(plan)
            run.go(workers if stream is None else 1)
            manifest = run.manifest(described, part)
            if not part and not manifest["counts"]["documents"]:
                raise UserError("The sources hold no document.", _why_empty(manifest))
            folder.finish(manifest)
        except WorkerLostError:
            raise
        except UserError:
            folder.discard()
            raise
        except OSError as error:
            folder.discard()
            raise write_error(error, folder.path, run.progress) from error
    _note_empty_splits(manifest, job, notify)
    return manifest


def _all_sources(
    sources: Sequence[str | Path],
    valid: Sequence[str | Path],
    test: Sequence[str | Path],
    format: str | None,
    folder: CorpusFolder,
) -> list[Source]:
    """All sources in reading order, the held-out ones first; a file named for a split is not read for another."""
    exclude = folder.path.resolve()
    found: dict[str, Source] = {}
    for paths, split in ((valid, "valid"), (test, "test"), (sources, "")):
        for source in find_sources(list(map(str, paths)), format, split, exclude):
            real = source.path if source.path == STDIN else os.path.realpath(source.path)
            other = found.setdefault(real, source)
            if other is not source and split:
                raise UserError(f"{source.path} is named for both valid and test.", "Name it for one of them.")
    if not found:
        raise UserError("No source was given.", "Name files, folders or globs, or - for standard input.")
    return [_with_lines_told(source) for source in found.values()]


def _with_lines_told(source: Source) -> Source:
    """A ``.json`` file that holds JSON lines is read as such: such files are common, and lines are faster."""
    if source.format != "json" or source.path == STDIN:
        return source
    with suppress(BrokenInputError), open_stream(source) as stream:
        if holds_lines(stream):
            return replace(source, format="jsonl")
    return source


def _with_document(
    settings: PrepareSettings, sources: Sequence[Source], notify: Callable[[str], None]
) -> PrepareSettings:
    if settings.document != "auto":
        return settings
    alone = len(sources) == 1 and sources[0].format == "txt"
    if alone:
        notify("One text file: each block between blank lines is a document (--document says otherwise).")
    return replace(settings, document="blank-line" if alone else "file")


def _with_text_field(
    settings: PrepareSettings, sources: Sequence[Source], stream: Replay | None, notify: Callable[[str], None]
) -> PrepareSettings:
    if settings.text_field is not None or all(source.format == "txt" for source in sources):
        return settings
    if stream is not None and any(s.path == STDIN and s.format == "parquet" for s in sources):
        raise UserError(
            "The field with the text cannot be guessed in Parquet from standard input.", "Add --text-field."
        )
    head = BytesIO(stream.head) if stream is not None else None
    return replace(settings, text_field=guess_text_field(sources, settings, head, notify))


def _heldout(valid: Sequence[str | Path], test: Sequence[str | Path]) -> list[str]:
    return [split for split, paths in (("valid", valid), ("test", test)) if paths]


def _shares(settings: PrepareSettings, heldout: Sequence[str]) -> tuple[float, float, float]:
    """Shares of documents that are split by hash: none for a split that has sources of its own."""
    train, valid, test = (0.0 if split in heldout else s for split, s in zip(SPLITS, settings.split, strict=True))
    if train + valid + test <= 0:
        raise UserError(
            "The split leaves no share for documents that are not held out by --valid or --test.",
            "Give train a share, such as --split 1,0,0.",
        )
    return train, valid, test


def _plan(sources: Sequence[Source], settings: PrepareSettings, part: tuple[int, int] | None) -> list[Work]:
    def row_groups(source: Source) -> list[int]:
        try:
            return parquet_row_groups(source)
        except BrokenInputError:
            # Reading it will say what is wrong, when its turn comes.
            return []

    size = part_piece_bytes(sources, part[1]) if part else PIECE_BYTES
    pieces = plan_pieces(sources, settings, row_groups, size)
    if part:
        pieces = take_part(pieces, part)
    return [[(segment, sources[segment.source]) for segment in piece] for piece in pieces]


def _why_empty(manifest: dict[str, Any]) -> str:
    counts = manifest["counts"]
    if counts["skipped"]:
        return f"All {counts['skipped']} records were malformed; the first: {manifest['errors'][0]['reason']}."
    if counts["empty"]:
        return f"All {counts['empty']} documents were empty after cleaning."
    return "Give files with at least one document."


def _note_empty_splits(manifest: dict[str, Any], job: Job, notify: Callable[[str], None]) -> None:
    empty = [
        split
        for split, share in zip(SPLITS, job.shares, strict=True)
        if share > 0 and not manifest["splits"][split]["documents"]
    ]
    if empty and not manifest["part"]:
        documents = manifest["counts"]["documents"]
        notify(
            f"No document fell into {' and '.join(empty)}: {documents} in all are few to split by hash. For text files "
            "--document line or blank-line makes more of them; --valid FILE names held-out files."
        )
