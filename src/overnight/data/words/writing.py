"""The second pass: ids into shards, and what the finished folder says about them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from overnight.data.ingest.batches import Batch
from overnight.data.ingest.faults import Faults
from overnight.data.ingest.folder import CorpusFolder
from overnight.data.ingest.piece_runner import Job, PieceReport, Work
from overnight.data.ingest.settings import SPLITS
from overnight.data.sharded import Shard
from overnight.data.words.corpus import COUNTS_FILE, VOCABULARY_FILE, WordStream
from overnight.data.words.encoding import IdsEncoder, TextEncoder
from overnight.data.words.sentences import sentence_blocks
from overnight.data.words.settings import WordSettings
from overnight.data.words.vocabulary import Vocabulary
from overnight.errors import UserError


class WordRunner:
    """What ``ingest.run.Run`` calls for each piece: sentences → batches of ids.

    Args:
        vocabulary: words and ids.
        settings: whether the sources are ids, and what becomes of empty lines.
    """

    def __init__(self, vocabulary: Vocabulary, settings: WordSettings) -> None:
        self.dtype = "<u2" if len(vocabulary) <= 1 << 16 else "<i4"
        self._encode: TextEncoder | IdsEncoder
        if settings.ids:
            self._encode = IdsEncoder(settings.bos_id, settings.eos_id, len(vocabulary))
        else:
            self._encode = TextEncoder(vocabulary, settings.empty_lines == "eos")

    def __call__(
        self, work: Work, job: Job, emit: Callable[[Batch], None], progress: Callable[[int], None], stdin: Any = None
    ) -> PieceReport:
        """Encode the segments of a piece."""
        faults = Faults(job.settings.on_error == "stop")
        report = PieceReport()
        width = np.dtype(self.dtype).itemsize
        for block in sentence_blocks(work, job, faults, progress):
            found = self._encode(block)
            report.empty += found.empty
            report.documents[block.index] = report.documents.get(block.index, 0) + len(found.sizes)
            if len(found.sizes):
                emit(Batch(block.split, found.ids.astype(self.dtype).tobytes(), (found.sizes * width).tolist()))
        report.skipped, report.errors = faults.count, faults.listed
        return report


def finish_corpus(
    folder: CorpusFolder, manifest: dict[str, Any], vocabulary: Vocabulary, settings: WordSettings, dtype: str
) -> dict[str, Any]:
    """Count the ids that were written, write the vocabulary and its counts, and put the manifest in place.

    Args:
        folder: of the corpus, its shards complete.
        manifest: what ``Run`` says of them.
        vocabulary: words and ids.
        settings: for the manifest.
        dtype: of the ids.

    Returns:
        The manifest, with what is particular to words.

    Raises:
        UserError: the training split, or another for which files were named, holds no words.
    """
    size = len(vocabulary)
    width = np.dtype(dtype).itemsize
    train = np.zeros(size, dtype=np.int64)
    for split in SPLITS:
        about = manifest["splits"][split]
        paths = [(folder.path / s["path"], folder.path / s["offsets"], s["bytes"] // width) for s in about["shards"]]
        counts = WordStream([Shard(*path, "", "", dtype) for path in paths], dtype=dtype).counts(size)
        about |= {"words": int(counts.sum()), "unk": int(counts[vocabulary.unk])}
        if split == "train":
            train = counts
    if not train.any():
        raise UserError("The training split holds no words.", "Give text with at least one word for it.")
    for split in manifest["settings"]["heldout"]:
        if not manifest["splits"][split]["words"]:
            raise UserError(
                f"The files of the split {split} hold no words.", f"Give it text with at least one, or no --{split}."
            )
    data = train.astype("<i8").tobytes()
    for name, content in ((VOCABULARY_FILE, vocabulary.as_file()), (COUNTS_FILE, data)):
        with open(folder.path / name, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    manifest |= {
        "kind": "words",
        "dtype": dtype,
        "vocabulary": {
            "size": size,
            "sha256": vocabulary.digest,
            "counts_sha256": hashlib.sha256(data).hexdigest(),
            "unk": vocabulary.unk,
            "eos": vocabulary.eos,
            "bos": vocabulary.bos,
            "from": "ids" if settings.ids else "file" if settings.vocab_file else "text",
        },
    }
    folder.finish(manifest)
    return manifest
