"""From parallel text to a corpus of pairs: one pass that counts words, and one that writes ids."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

import overnight
from overnight.data.ingest.batches import Batch
from overnight.data.ingest.continuing import already_there
from overnight.data.ingest.disk import write_error
from overnight.data.ingest.folder import FORMAT, CorpusFolder
from overnight.data.ingest.preparation import log
from overnight.data.ingest.progress import Progress
from overnight.data.ingest.settings import SPLITS
from overnight.data.ingest.shards import HashedFile, ShardWriter
from overnight.data.ingest.sources import Source, sources_digest
from overnight.data.pairs.coding import Coder, bpe_coder, word_coder
from overnight.data.pairs.corpus import FILES, HELD_OUT, SIDES, pieces_file, text_file, vocabulary_file
from overnight.data.pairs.reading import read_pairs, text_source
from overnight.data.pairs.settings import PairSettings
from overnight.data.words.counting import WordCounter
from overnight.errors import UserError

_BLOCK = 1024
Files = Mapping[str, tuple[Source, Source]]


def prepare_pairs(
    train: Sequence[str | Path],
    out: str | Path,
    settings: PairSettings | None = None,
    *,
    valid: Sequence[str | Path] = (),
    test: Sequence[str | Path] = (),
    force: bool = False,
    notify: Callable[[str], None] = log,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Turn parallel text into a corpus of pairs (docs/translation.md).

    The training files are read twice, once to count words and once to write ids; memory does not grow with the text,
    only with the vocabularies. A run that is interrupted or fails leaves nothing.

    Args:
        train: two text files, source and target, of as many lines; .gz and .zst too.
        out: the corpus folder to write.
        settings: everything that decides the ids.
        valid, test: two files each, whose text is kept beside their ids, and of which no pair is too long.
        force: replace the corpus in ``out``.
        notify: told in a sentence of what was found in ``out``.
        progress: counters to keep up to date.

    Returns:
        The manifest.

    Raises:
        UserError: files of different numbers of lines (it names both), text that is not UTF-8, no pairs, a folder of
            something else, a full disk.

    >>> import tempfile
    >>> scratch = tempfile.TemporaryDirectory()
    >>> de, en = (Path(scratch.name) / name for name in ("de", "en"))
    >>> _ = de.write_text("eine rose\\n\\n"), en.write_text("a rose\\nnothing\\n")
    >>> manifest = prepare_pairs([de, en], Path(scratch.name) / "corpus")
    >>> manifest["counts"]["pairs"], manifest["counts"]["empty"], manifest["vocabulary"]["target"]["size"]
    (1, 1, 5)
    >>> scratch.cleanup()
    """
    settings = settings or PairSettings()
    folder = CorpusFolder(Path(out), FILES)
    files = {name: _two(name, given) for name, given in zip(SPLITS, (train, valid, test), strict=True) if given}
    if "train" not in files:
        raise UserError("No training files were given.", "Name two: overnight prepare --pairs SOURCE TARGET --out DIR.")
    described = {
        **settings.as_json(),
        "heldout": [split for split in HELD_OUT if split in files],
        "sources_sha256": sources_digest([source for two in files.values() for source in two]),
    }
    folder.refuse_foreign()
    finished = folder.finished()
    if finished is not None and not force:
        return already_there(finished, folder, described, None, False, notify)
    progress = progress or Progress()
    progress.bytes_total = sum(source.bytes for two in (files["train"], *files.values()) for source in two)
    with folder.locked():
        try:
            folder.begin({"settings": described, "pairs": True})
            coders = _coders(files["train"], settings, folder.partial, progress)
            manifest = _write(files, coders, settings, folder, progress)
            manifest["settings"] = described
            folder.finish(manifest)
        except OSError as error:
            folder.discard()
            raise write_error(error, folder.path, progress) from error
        except BaseException:
            folder.discard()
            raise
    return manifest


def _two(split: str, given: Sequence[str | Path]) -> tuple[Source, Source]:
    if len(given) != 2:
        raise UserError(
            f"{len(given)} files were given for the {split} split.", "Give two: the sentences, and their translations."
        )
    return text_source(given[0], split), text_source(given[1], split)


def _full(sources: tuple[Source, Source], progress: Progress) -> Iterator[tuple[bytes, bytes]]:
    return (pair for pair in read_pairs(sources, progress.read) if pair[0] and pair[1])


def _coders(
    sources: tuple[Source, Source], settings: PairSettings, scratch: Path, progress: Progress
) -> tuple[Coder, Coder]:
    if settings.bpe is not None:
        if settings.joint:
            both = bpe_coder((side for pair in _full(sources, progress) for side in pair), settings.bpe)
            return both, both
        return tuple(bpe_coder((pair[i] for pair in _full(sources, progress)), settings.bpe) for i in (0, 1))  # type: ignore[return-value]
    counters = []
    for side in SIDES[: 1 if settings.joint else 2]:
        (scratch / side).mkdir(exist_ok=True)
        counters.append(WordCounter(scratch / side))
    pairs = 0
    for first, second in _full(sources, progress):
        counters[0].add(first.split())
        counters[-1].add(second.split())
        pairs += 1
    if not pairs:
        raise UserError(f"{sources[0].path} and {sources[1].path} hold no pair of sentences.", "Give some text.")
    limits: dict[str, Any] = {"size": settings.vocab_size, "min_count": settings.min_count}
    made = [word_coder(counter.items(), pairs, **limits) for counter in counters]
    return made[0], made[-1]


def _write(
    files: Files, coders: tuple[Coder, Coder], settings: PairSettings, folder: CorpusFolder, progress: Progress
) -> dict[str, Any]:
    dtype = "<u2" if max(len(coder.vocabulary) for coder in coders) <= 1 << 16 else "<i4"
    totals = {"pairs": 0, "empty": 0, "too_long": 0}
    splits: dict[str, Any] = {}
    texts: dict[str, str] = {}
    with ExitStack() as stack:
        background = stack.enter_context(ThreadPoolExecutor(1))
        for split in SPLITS:
            writer = ShardWriter(folder.path, split, settings.shard_bytes, background)
            stack.callback(writer.abandon)
            own = dict.fromkeys(("source_words", "target_words", "source_unk", "target_unk"), 0)
            kept: list[HashedFile] = []
            if split in files:
                if split in HELD_OUT:
                    kept = [HashedFile(folder.path / text_file(split, side)) for side in SIDES]
                    for file in kept:
                        stack.callback(file.close)
                limit = settings.max_length if split == "train" else None
                _write_split(files[split], coders, writer, kept, limit, np.dtype(dtype), totals, own, progress)
                for side, file in zip(SIDES, kept, strict=False):
                    file.flush()
                    file.sync()
                    texts[text_file(split, side)] = file.sha256()
            writer.finish()
            totals["pairs"] += writer.documents
            splits[split] = {"bytes": writer.bytes, "documents": writer.documents, "shards": writer.shards, **own}
    if not splits["train"]["documents"]:
        raise UserError(
            f"Every pair of the training files is longer than {settings.max_length} or empty.",
            "Give a larger --max-length.",
        )
    return {
        "format": FORMAT,
        "kind": "pairs",
        "overnight": overnight.__version__,
        "dtype": dtype,
        "part": None,
        "sources": [{"path": s.path, "bytes": s.bytes, "split": s.split} for two in files.values() for s in two],
        "counts": totals,
        "errors": [],
        "splits": splits,
        "texts": texts,
        "vocabulary": {"joint": settings.joint, **_vocabularies(coders, folder.path)},
    }


def _write_split(
    sources: tuple[Source, Source],
    coders: tuple[Coder, Coder],
    writer: ShardWriter,
    kept: Sequence[HashedFile],
    limit: int | None,
    dtype: np.dtype[Any],
    totals: dict[str, int],
    own: dict[str, int],
    progress: Progress,
) -> None:
    ends = [coder.vocabulary.eos for coder in coders]
    lines = read_pairs(sources, progress.read)
    while block := list(islice(lines, _BLOCK)):
        pairs = [pair for pair in block if pair[0] and pair[1]]
        totals["empty"] += len(block) - len(pairs)
        ids, sizes = [], []
        encoded = zip(*(coder.encode([pair[i] for pair in pairs]) for i, coder in enumerate(coders)), strict=True)
        for pair, two in zip(pairs, encoded, strict=True):
            if limit is not None and max(map(len, two)) > limit:
                totals["too_long"] += 1
                continue
            for file, text in zip(kept, pair, strict=False):
                file.write(text + b"\n")
            for side, coder, one in zip(SIDES, coders, two, strict=True):
                own[f"{side}_words"] += len(one)
                own[f"{side}_unk"] += one.count(coder.vocabulary.unk)
            document = [*two[0], ends[0], *two[1], ends[1]]
            ids += document
            sizes.append(len(document) * dtype.itemsize)
        if sizes:
            data = np.array(ids, dtype=dtype).tobytes()
            writer.append(Batch("", data, sizes))
            progress.wrote(len(sizes), len(data) + 8 * len(sizes))


def _vocabularies(coders: tuple[Coder, Coder], folder: Path) -> dict[str, Any]:
    about = {}
    for side, coder in zip(SIDES, coders, strict=True):
        words, pieces = coder.vocabulary.as_file(), coder.pieces.encode()
        _put(folder / vocabulary_file(side), words)
        if pieces:
            _put(folder / pieces_file(side), pieces)
        about[side] = {
            "size": len(coder.vocabulary),
            "sha256": coder.vocabulary.digest,
            "pieces_sha256": hashlib.sha256(pieces).hexdigest() if pieces else None,
            "unk": coder.vocabulary.unk,
            "eos": coder.vocabulary.eos,
            "bos": coder.vocabulary.bos,
        }
    return about


def _put(path: Path, content: bytes) -> None:
    file: IO[bytes]
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
