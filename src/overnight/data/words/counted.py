"""The first pass: the vocabulary that a corpus is written with."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from overnight.data.ingest.faults import Faults
from overnight.data.ingest.piece_runner import Job, Work
from overnight.data.ingest.progress import Progress
from overnight.data.words.counting import WordCounter
from overnight.data.words.encoding import IdsEncoder, sentences, without_mark
from overnight.data.words.sentences import Block, sentence_blocks
from overnight.data.words.settings import WordSettings
from overnight.data.words.vocabulary import Vocabulary, build_vocabulary, read_vocabulary
from overnight.errors import UserError

_SAVED = "vocabulary.json"
_LARGEST = 2**31


def find_vocabulary(
    partial: Path,
    pieces: Sequence[Work],
    job: Job,
    settings: WordSettings,
    progress: Progress,
    notify: Callable[[str], None],
) -> Vocabulary:
    """Read, build, or take from an interrupted run the vocabulary.

    Args:
        partial: the folder of the workings.
        pieces: all work.
        job: settings of the text and shares of the splits.
        settings: those of the words.
        progress: shows the pass.
        notify: told in a sentence what was done.

    Raises:
        UserError: a bad vocabulary file, malformed text or ids, no words for training.
    """
    saved = partial / _SAVED
    if saved.is_file():
        return _load(saved)
    given = None
    if settings.vocab_file is not None:
        eos = settings.eos_word
        given = read_vocabulary(settings.vocab_file, settings.unk_word, eos, settings.ends and not settings.ids)
        if not settings.ids:
            return given
        if given.unk != settings.unk_id:
            word = given.words[given.unk].decode()
            raise UserError(
                f"{settings.vocab_file} has {word} in line {given.unk + 1}, where its id would be {given.unk}; the ids "
                f"have {settings.unk_id} for unknown words.",
                "Give the vocabulary that the ids were made with, or the right --unk-id or --unk.",
            )
    progress.bytes_total = sum(segment.bytes for piece in pieces for segment, _ in piece)
    if settings.ids:
        found = _ids_vocabulary(pieces, job, settings, progress, given)
    else:
        found = _counted(partial, pieces, job, settings, progress)
    progress.bytes_done = 0
    _save(saved, found)
    return found


def _counted(partial: Path, pieces: Sequence[Work], job: Job, settings: WordSettings, progress: Progress) -> Vocabulary:
    eos = (settings.eos_word or b"<eos>") if settings.ends else None
    counter, ends = WordCounter(partial), 0

    def count(block: Block) -> None:
        nonlocal ends
        words = without_mark(block, eos)
        if block.split == "train":
            counter.add(words)
            full, empty = sentences(block)
            ends += full + (empty if settings.empty_lines == "eos" else 0)

    _each_block(pieces, job, progress, count)
    return build_vocabulary(
        counter.items(),
        ends,
        size=settings.vocab_size,
        min_count=settings.min_count,
        unk=settings.unk_word or b"<unk>",
        eos=eos,
    )


def _ids_vocabulary(
    pieces: Sequence[Work], job: Job, settings: WordSettings, progress: Progress, given: Vocabulary | None
) -> Vocabulary:
    size = len(given) if given is not None else settings.vocab_size
    encoder = IdsEncoder(settings.bos_id, settings.eos_id, size or _LARGEST)
    largest = max(settings.unk_id, settings.bos_id, settings.eos_id)

    def look(block: Block) -> None:
        nonlocal largest
        largest = max(largest, int(encoder(block).ids.max(initial=0)))

    _each_block(pieces, job, progress, look)
    if size is not None and largest >= size:
        raise UserError(
            f"The id {largest} of --unk-id, --bos-id or --eos-id is not below the size of the vocabulary, {size:,}.",
            "Give the vocabulary that the ids were made with.",
        )
    own = {settings.unk_id: b"<unk>", settings.bos_id: b"<bos>", settings.eos_id: b"<eos>"}
    words = given.words if given is not None else [own.get(i, b"%d" % i) for i in range(size or largest + 1)]
    return Vocabulary(words, settings.unk_id, settings.eos_id, settings.bos_id)


def _each_block(pieces: Sequence[Work], job: Job, progress: Progress, use: Callable[[Block], None]) -> None:
    # malformed lines that are to be left out are counted and listed by the second pass
    faults = Faults(job.settings.on_error == "stop")
    for piece in pieces:
        for block in sentence_blocks(piece, job, faults, progress.read):
            use(block)


def _save(path: Path, vocabulary: Vocabulary) -> None:
    aside = path.with_suffix(".new")
    about = {"unk": vocabulary.unk, "eos": vocabulary.eos, "bos": vocabulary.bos}
    aside.write_text(json.dumps({**about, "words": [word.decode() for word in vocabulary.words]}))
    os.replace(aside, path)


def _load(path: Path) -> Vocabulary:
    found = json.loads(path.read_text())
    empty = Vocabulary([], found["unk"], found["eos"], found["bos"])
    return replace(empty, words=[word.encode() for word in found["words"]])
