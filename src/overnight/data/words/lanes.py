"""The words of a corpus as lanes for truncated backpropagation, and as windows of n words for feed-forward models."""

from __future__ import annotations

import os

from overnight.data.lanes import Lanes
from overnight.data.words.corpus import WordCorpus
from overnight.errors import UserError


def word_lanes(
    *, corpus: str, lanes: int, seed: int | None, split: str = "train", length: int = 35, reset: str = "never"
) -> Lanes:
    """The lanes of a corpus of words, after checking its files against its manifest: on a host with several ranks the
    one whose ``LOCAL_RANK`` is 0 does that for all of them.

    The batch of a step is a ``LaneBatch`` (``input_TB``, ``target_TB`` int64, ``reset_TB``), a function of
    (seed, step, lanes asked for), as for bytes.

    Args:
        corpus: a folder made by ``overnight prepare --words``.
        lanes: B, over all ranks.
        seed: decides where each epoch starts in the stream; None starts every epoch at the split's first word.
        split: which split.
        length: T, words a lane and step.
        reset: zero the state ``never`` inside an epoch, or before the ``eos`` that stands before each ``sentence`` or
            before each ``shard``.

    Raises:
        UserError: if the folder is no corpus of words, a file was altered, or the split is empty or too short.
    """
    opened = open_split(corpus, split)
    if reset == "sentence" and opened.eos is None:
        raise UserError(f"{corpus} marks no ends of sentences, so the state cannot be reset there.", "Take never.")
    made = Lanes(opened.split(split), lanes, length, seed=seed, reset=reset)
    made.digest = opened.digest
    made.vocabulary_digest = opened.vocabulary_digest
    return made


def open_split(corpus: str, split: str) -> WordCorpus:
    """A corpus whose files were checked, and that has words in a split.

    Raises:
        UserError: it is not so.
    """
    opened = WordCorpus.open(corpus)
    if not len(opened.split(split)):
        raise UserError(f"The split {split} of {corpus} has no words.", "Choose another, or prepare it with one.")
    if os.environ.get("LOCAL_RANK", "0") == "0":
        opened.verify()
    return opened
