"""The second pass: ids into shards, the held-out text beside them, and what the finished folder says about them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np

import overnight
from overnight.data.ingest.batches import Batch
from overnight.data.ingest.folder import FORMAT, CorpusFolder
from overnight.data.ingest.progress import Progress
from overnight.data.ingest.settings import SPLITS
from overnight.data.ingest.shards import HashedFile, ShardWriter
from overnight.data.ingest.sources import Source
from overnight.data.pairs.coding import Coder
from overnight.data.pairs.corpus import HELD_OUT, SIDES, pieces_file, text_file, vocabulary_file
from overnight.data.pairs.reading import read_pairs
from overnight.data.pairs.settings import PairSettings
from overnight.errors import UserError

_BLOCK = 1024
Files = Mapping[str, tuple[Source, Source]]


def write_corpus(
    files: Files, coders: tuple[Coder, Coder], settings: PairSettings, folder: CorpusFolder, progress: Progress
) -> dict[str, Any]:
    """Write the shards, the vocabularies and the text of the held-out splits.

    Args:
        files: the two sources of each split.
        coders: of the two languages.
        settings: what is too long, and how large a shard may be.
        folder: of the corpus, begun.
        progress: counters to keep up to date.

    Returns:
        The manifest, but for its settings; it is not written.

    Raises:
        UserError: malformed text, or no pair is left for training.
    """
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
