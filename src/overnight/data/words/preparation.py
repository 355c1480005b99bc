"""From sources to a corpus of words: one pass that counts, unless the vocabulary is given, and one that writes ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import overnight
from overnight.data.ingest.continuing import already_there, resume_state
from overnight.data.ingest.disk import write_error
from overnight.data.ingest.fields import guess_text_field
from overnight.data.ingest.folder import CorpusFolder
from overnight.data.ingest.piece_runner import Job, Work
from overnight.data.ingest.pieces import parquet_row_groups, plan_pieces
from overnight.data.ingest.preparation import log
from overnight.data.ingest.progress import Progress
from overnight.data.ingest.run import Run
from overnight.data.ingest.settings import SPLITS
from overnight.data.ingest.sources import Source, sources_digest
from overnight.data.ingest.streams import BrokenInputError
from overnight.data.words.corpus import COUNTS_FILE, VOCABULARY_FILE
from overnight.data.words.counted import find_vocabulary
from overnight.data.words.layouts import Layout, all_ids, read_layout, word_sources
from overnight.data.words.settings import WordSettings
from overnight.data.words.writing import WordRunner, finish_corpus
from overnight.errors import UserError


def prepare_words(
    sources: Sequence[str | Path],
    out: str | Path,
    settings: WordSettings | None = None,
    *,
    format: str | None = None,
    valid: Sequence[str | Path] = (),
    test: Sequence[str | Path] = (),
    force: bool = False,
    notify: Callable[[str], None] = log,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Turn text, or ids that someone made, into a corpus of words (docs/corpus-format.md).

    The sources are read twice, once to count words and once to write ids, or once where the vocabulary is given. Memory
    does not grow with the text, only with the vocabulary (see ``WordCounter``). A run that is interrupted leaves no
    manifest, and the same call goes on: with the vocabulary where that was found, at the piece of the second pass that
    was under way. One that fails leaves nothing.

    Args:
        sources: files, globs or folders; a single folder in the layout of One Billion Word, or with one file for each
            split by its name, is split so.
        out: the corpus folder to write.
        settings: everything that decides the ids.
        format: read all sources as this format, such as ``txt`` or ``jsonl.gz``, whatever their names say.
        valid, test: sources that go whole to that split. The others are split by the settings' shares.
        force: replace the corpus or the interrupted run in ``out``.
        notify: told in a sentence of guesses and of what was found in ``out``.
        progress: counters to keep up to date, of the pass under way.

    Returns:
        The manifest.

    Raises:
        UserError: bad sources or settings, malformed text or ids, a vocabulary that does not fit, a split without words
            for which files were named, no words to train on, a folder of something else, a full disk.

    >>> import tempfile
    >>> scratch = tempfile.TemporaryDirectory()
    >>> folder = Path(scratch.name)
    >>> for name, text in (("my.train.txt", "a rose is a rose\\n"), ("my.test.txt", "a tulip\\n")):
    ...     _ = (folder / name).write_text(text)
    >>> manifest = prepare_words([folder], folder / "corpus", notify=print)
    Splits: files named by split (train 1, test 1).
    No word of the training split is unknown: a model learns nothing of unknown words. --min-count 2 helps.
    >>> (folder / "corpus" / "vocab.txt").read_text().split()
    ['a', 'rose', '<eos>', 'is', '<unk>']
    >>> scratch.cleanup()
    """
    settings = settings or WordSettings()
    folder = CorpusFolder(Path(out), (VOCABULARY_FILE, COUNTS_FILE))
    layout = _layout(sources, valid, test, notify)
    if not settings.ids and all_ids([path for paths in layout.files.values() for path in paths]):
        settings = replace(settings, ids=True)
    named_file = settings.vocab_file or settings.vocab_size or settings.min_count != 1
    if layout.vocab_file and not named_file:
        settings = replace(settings, vocab_file=layout.vocab_file)
        notify(f"Vocabulary: {layout.vocab_file}.")
    if settings.ids:
        format = "txt"
    found = word_sources(layout.files, format, folder.path.resolve())
    if settings.text.text_field is None:
        text = replace(settings.text, text_field=guess_text_field(found, settings.text, None, notify))
        settings = replace(settings, text=text)
    heldout = [split for split in SPLITS if layout.files.get(split)]
    shares = settings.shares(heldout)
    described = {**settings.as_json(), "heldout": heldout, "sources_sha256": sources_digest(found)}

    folder.refuse_foreign()
    finished = folder.finished()
    if finished is not None and not force:
        return already_there(finished, folder, described, None, False, notify)
    pieces = _plan(found, settings)
    plan = {
        "settings": described,
        "part": None,
        "sources": [[s.path, s.bytes, s.mtime_ns] for s in found],
        "pieces": len(pieces),
        "overnight": overnight.__version__,
    }
    job = Job(settings.text, shares)
    progress = progress or Progress()
    with folder.locked():
        resumed = not force and folder.plan() is not None
        state = resume_state(folder, plan, False, notify) if resumed else None
        try:
            if not resumed:
                folder.begin(plan)
            vocabulary = find_vocabulary(folder.partial, pieces, job, settings, progress, notify)
            runner = WordRunner(vocabulary, settings)
            run = Run(folder, found, pieces, job, progress, None, state, runner)
            run.go(1)
            manifest = finish_corpus(folder, run.manifest(described, None), vocabulary, settings, runner.dtype)
        except UserError:
            folder.discard()
            raise
        except OSError as error:
            folder.discard()
            raise write_error(error, folder.path, progress) from error
    _note_empty(manifest, shares, notify)
    return manifest


def _layout(
    sources: Sequence[str | Path],
    valid: Sequence[str | Path],
    test: Sequence[str | Path],
    notify: Callable[[str], None],
) -> Layout:
    named = {"valid": list(map(str, valid)), "test": list(map(str, test))}
    layout = read_layout(list(map(str, sources)))
    if layout.found:
        counts = ", ".join(f"{split} {len(layout.files[split])}" for split in SPLITS if split in layout.files)
        notify(f"Splits: {layout.found} ({counts}).")
    files = {**layout.files, **{split: paths for split, paths in named.items() if paths}}
    if "train" in files:
        files[""] = files.pop("train")
    return replace(layout, files=files)


def _plan(sources: Sequence[Source], settings: WordSettings) -> list[Work]:
    def row_groups(source: Source) -> list[int]:
        try:
            return parquet_row_groups(source)
        except BrokenInputError:
            # Reading it will say what is wrong, when its turn comes.
            return []

    pieces = plan_pieces(sources, settings.text, row_groups)
    return [[(segment, sources[segment.source]) for segment in piece] for piece in pieces]


def _note_empty(manifest: Mapping[str, Any], shares: Sequence[float], notify: Callable[[str], None]) -> None:
    wanted = [split for split, share in zip(SPLITS, shares, strict=True) if share > 0]
    empty = [split for split in wanted if not manifest["splits"][split]["documents"]]
    if empty:
        notify(f"No sentence fell into {' and '.join(empty)}; --valid FILE and --test FILE name held-out files.")
    if not manifest["splits"]["train"]["unk"]:
        notify(
            "No word of the training split is unknown: a model learns nothing of unknown words. --min-count 2 helps."
        )
