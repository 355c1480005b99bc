"""From text to a corpus of sentences of word pieces, in constant memory."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

import overnight
from overnight.data.corpus import Corpus
from overnight.data.ingest import Progress, prepare
from overnight.data.ingest.batches import Batch
from overnight.data.ingest.continuing import already_there
from overnight.data.ingest.disk import write_error
from overnight.data.ingest.folder import FORMAT, CorpusFolder
from overnight.data.ingest.preparation import log
from overnight.data.ingest.settings import SPLITS
from overnight.data.ingest.shards import ShardWriter
from overnight.data.ingest.sources import find_sources, sources_digest
from overnight.data.masked.corpus import FILES, TOKENIZER_FILE, VOCABULARY_FILE
from overnight.data.masked.sentences import split_lines, split_sentences
from overnight.data.masked.settings import MaskedSettings
from overnight.data.masked.wordpiece import WordPiece, learn, read_tokenizer
from overnight.data.sharded import TokenStream
from overnight.errors import UserError

_BLOCK_BYTES = 1 << 20


def prepare_masked(
    sources: Sequence[str | Path],
    out: str | Path,
    settings: MaskedSettings | None = None,
    *,
    format: str | None = None,
    valid: Sequence[str | Path] = (),
    test: Sequence[str | Path] = (),
    workers: int = 1,
    force: bool = False,
    notify: Callable[[str], None] = log,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Turn text into a corpus of sentences for BERT (docs/bert.md).

    The documents are first written as ``prepare`` writes them, into a folder that is deleted at the end; then the word
    pieces of the training split are learned, then its sentences are written as ids. Memory does not grow with the text,
    only with its different words. A run that is interrupted or fails leaves nothing.

    Args:
        sources: files, folders or globs, or ``-``.
        out: the corpus folder to write.
        settings: everything that decides the ids.
        format: read all sources as this format, whatever their names say.
        valid, test: sources that go whole to that split.
        workers: processes that read and clean.
        force: replace the corpus in ``out``.
        notify: told in a sentence of guesses and of what was found.
        progress: counters to keep up to date, of the reading.

    Returns:
        The manifest.

    Raises:
        UserError: as ``prepare``; or a tokenizer that cannot be used.

    >>> import tempfile
    >>> scratch = tempfile.TemporaryDirectory()
    >>> text = Path(scratch.name) / "a.txt"
    >>> _ = text.write_text("A rose is a rose. It is red.\\n\\nA tulip. A rose.\\n")
    >>> from overnight.data.ingest import PrepareSettings
    >>> whole = MaskedSettings(PrepareSettings(split=(1, 0, 0), framing="none"), vocab_size=40)
    >>> manifest = prepare_masked([text], Path(scratch.name) / "corpus", whole, notify=lambda said: None)
    >>> manifest["splits"]["train"]["documents"], manifest["splits"]["train"]["sentences"]
    (2, 4)
    >>> scratch.cleanup()
    """
    settings = settings or MaskedSettings()
    folder = CorpusFolder(Path(out), FILES)
    given = read_tokenizer(settings.tokenizer) if settings.tokenizer else None
    exclude = folder.path.resolve()
    named = {"": sources, "valid": valid, "test": test}
    found = [
        source
        for split, paths in named.items()
        for source in find_sources(list(map(str, paths)), format, split, exclude)
    ]
    described = {**settings.as_json(), "tokenizer": given.digest if given else None}
    described |= {"heldout": [name for name in ("valid", "test") if named[name]]}
    described |= {"sources_sha256": sources_digest(found)}
    folder.refuse_foreign()
    finished = folder.finished()
    if finished is not None and not force:
        return already_there(finished, folder, described, None, False, notify)
    with folder.locked():
        try:
            folder.begin({"settings": described, "bert": True})
            text = folder.partial / "text"
            read = prepare(
                sources,
                text,
                settings.text,
                format=format,
                valid=valid,
                test=test,
                workers=workers,
                notify=notify,
                progress=progress,
            )
            corpus = Corpus(text)
            if given is None:
                notify(f"Learning {settings.vocab_size:,} word pieces of the training split.")
            train = corpus.split("train")
            pieces = given or learn(lambda: _texts(train), settings.vocab_size, lowercase=settings.lowercase)
            manifest = _write(corpus, pieces, settings, folder)
            manifest |= {"settings": described, "sources": read["sources"], "counts": read["counts"]}
            manifest["errors"] = read["errors"]
            shutil.rmtree(text)
            folder.finish(manifest)
        except OSError as error:
            folder.discard()
            raise write_error(error, folder.path, progress or Progress()) from error
        except BaseException:
            folder.discard()
            raise
    _note(manifest, notify)
    return manifest


def _documents(stream: TokenStream) -> Iterator[str]:
    starts = stream.document_starts
    ends = np.append(starts[1:], len(stream))
    first = 0
    while first < len(starts):  # some at a time: a read for each short document would take longer than its sentences
        beyond = int(np.searchsorted(ends, starts[first] + _BLOCK_BYTES, side="right"))
        last = max(first + 1, beyond)
        data = stream.read(int(starts[first]), int(ends[last - 1] - starts[first])).tobytes()
        for start, end in zip(starts[first:last] - starts[first], ends[first:last] - starts[first], strict=True):
            yield data[start:end].decode("utf-8", "replace")
        first = last


def _texts(stream: TokenStream) -> Iterator[str]:
    if not len(stream):
        raise UserError("No document fell into the training split.", "Give more text, or --split 1,0,0.")
    return _documents(stream)


def _write(corpus: Corpus, pieces: WordPiece, settings: MaskedSettings, folder: CorpusFolder) -> dict[str, Any]:
    dtype = np.dtype("<u2" if pieces.size <= 1 << 16 else "<i4")
    cut = split_sentences if settings.sentences == "auto" else split_lines
    splits: dict[str, Any] = {}
    with ExitStack() as stack:
        background = stack.enter_context(ThreadPoolExecutor(1))
        for split in SPLITS:
            writer = ShardWriter(folder.path, split, settings.text.shard_bytes, background)
            stack.callback(writer.abandon)
            own = {"tokens": 0, "sentences": 0, "with_pairs": 0, "unknown": 0}
            stream = corpus.split(split)
            for block in _blocks(_documents(stream) if len(stream) else iter(())):
                _write_block([cut(text) for text in block], pieces, writer, dtype, own)
            writer.finish()
            splits[split] = {"bytes": writer.bytes, "documents": writer.documents, "shards": writer.shards, **own}
    if not splits["train"]["documents"]:
        raise UserError("The training split holds no word.", "Give more text.")
    for name, content in ((TOKENIZER_FILE, pieces.content), (VOCABULARY_FILE, "\n".join(pieces.words) + "\n")):
        _put(folder.path / name, content.encode())
    about = {"size": pieces.size, "digest": pieces.digest}
    about["sha256"] = hashlib.sha256(pieces.content.encode()).hexdigest()
    return {
        "format": FORMAT,
        "kind": "sentences",
        "overnight": overnight.__version__,
        "dtype": dtype.str,
        "part": None,
        "splits": splits,
        "vocabulary": about,
    }


def _blocks(documents: Iterator[str]) -> Iterator[list[str]]:
    held: list[str] = []
    size = 0
    for document in documents:
        held.append(document)
        size += len(document)
        if size >= _BLOCK_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def _write_block(
    documents: list[list[str]], pieces: WordPiece, writer: ShardWriter, dtype: np.dtype[Any], own: dict[str, int]
) -> None:
    encoded = iter(pieces.encode([sentence for document in documents for sentence in document]))
    ids: list[int] = []
    sizes = []
    for document in documents:
        sentences = [one for one in (next(encoded) for _ in document) if one]
        if not sentences:
            continue
        before = len(ids)
        for sentence in sentences:
            ids += sentence
            own["unknown"] += sentence.count(pieces.unk)
            ids.append(pieces.sep)
        own["sentences"] += len(sentences)
        own["tokens"] += len(ids) - before - len(sentences)
        own["with_pairs"] += len(sentences) > 1
        sizes.append((len(ids) - before) * dtype.itemsize)
    if sizes:
        writer.append(Batch("", np.array(ids, dtype=dtype).tobytes(), sizes))


def _put(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _note(manifest: dict[str, Any], notify: Callable[[str], None]) -> None:
    train = manifest["splits"]["train"]
    if not train["with_pairs"]:
        notify(
            "No document has two sentences, so there is no next sentence to learn from: sentences end at . ! ? before "
            "a capital and at line breaks, and --document says what a document is."
        )
    if not manifest["splits"]["valid"]["documents"]:
        notify("No document is held out, so nothing will be evaluated: --valid FILE names held-out files.")
