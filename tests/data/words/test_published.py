"""Corpora that others have measured: the same words, and the same perplexity of their frequencies."""

import math
import os
from pathlib import Path

import pytest

from overnight.data.words import WordCorpus
from overnight.data.words.preparation import prepare_words


def unigram_perplexity(corpus: WordCorpus, added: int) -> float:
    """Of the test split, by the frequencies of the training split with so much added to each."""
    test, train = corpus.split("test").counts(corpus.vocab_size), corpus.counts + added
    seen = test > 0
    return math.exp(sum(-test[seen] * [math.log(p) for p in train[seen] / train.sum()]) / test.sum())


def prepared(name: str, out: Path) -> tuple[WordCorpus, dict[str, tuple[int, int]]]:
    data = os.environ.get("OVERNIGHT_DATA")
    if not data:
        pytest.skip("OVERNIGHT_DATA does not name a folder of real data")
    manifest = prepare_words([Path(data) / name], out)
    return WordCorpus.open(out), {name: (s["documents"], s["words"]) for name, s in manifest["splits"].items()}


def test_penn_treebank(tmp_path: Path) -> None:
    corpus, sizes = prepared("ptb", tmp_path / "out")
    assert sizes == {"train": (42_068, 929_589), "valid": (3_370, 73_760), "test": (3_761, 82_430)}
    assert corpus.vocab_size == 10_000
    assert round(unigram_perplexity(corpus, 0), 1) == 639.3


def test_wsj_ids(tmp_path: Path) -> None:
    corpus, sizes = prepared("wsj_ids", tmp_path / "out")
    assert sizes == {"train": (38_136, 990_731), "valid": (0, 0), "test": (3_051, 79_440)}
    assert corpus.vocab_size == 10_000
    assert round(unigram_perplexity(corpus, 1), 1) == 534.5
