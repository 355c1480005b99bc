"""Batches of pairs: a function of (seed, step, share), of like lengths, every pair at most once an epoch."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracles.pairs import sentences, write_pairs

from overnight.data.pairs import PairCorpus
from overnight.data.pairs.batches import PairBatch, PairBatches, pair_batches
from overnight.errors import UserError


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "corpus")


def batches(folder: Path, lanes: int = 16, **settings: Any) -> PairBatches:
    return pair_batches(**{"corpus": str(folder), "lanes": lanes, "seed": 0, **settings})


def read(folder: Path, batch: PairBatch) -> list[tuple[str, str]]:
    corpus = PairCorpus(folder)
    source, target = corpus.coder("source"), corpus.coder("target")
    pairs = []
    for b in range(batch.source_TB.shape[1]):
        words, length = batch.source_TB[:, b], int(batch.source_length_B[b])
        said, end = batch.target_UB[:, b], int(batch.target_length_B[b])
        eos = (source.vocabulary.eos, target.vocabulary.eos)
        assert (words[length - 1 :] == eos[0]).all()
        assert (said[end - 1 :] == eos[1]).all()
        assert torch.equal(batch.input_UB[1:, b], said[:-1])
        assert int(batch.input_UB[0, b]) == target.vocabulary.bos
        pairs.append((source.decode(words[: length - 1].tolist()), target.decode(said[: end - 1].tolist())))
    return pairs


def test_every_pair_once_an_epoch_and_the_text_is_what_was_given(folder: Path) -> None:
    made = batches(folder, lanes=7)
    given = sorted(zip(*sentences(300, 1), strict=True))
    assert made.steps_per_epoch == 42
    for epoch in range(2):
        found = [pair for step in range(42) for pair in read(folder, made.at(42 * epoch + step))]
        assert len(found) == 294
        missing = list(given)
        for pair in found:
            missing.remove(pair)
        assert len(missing) == 6


def test_a_step_is_a_function_of_seed_and_step(folder: Path) -> None:
    made = batches(folder)
    late = made.at(40)
    made.at(3)
    again = batches(folder).at(40)
    for name in ("source_TB", "source_length_B", "input_UB", "target_UB", "target_length_B"):
        assert torch.equal(getattr(late, name), getattr(again, name))
    assert late.targets == int(late.target_length_B.sum())
    assert read(folder, batches(folder, seed=1).at(0)) != read(folder, made.at(0))
    assert read(folder, made.at(0)) != read(folder, made.at(made.steps_per_epoch))


def test_shares_of_a_step_are_parts_of_it(folder: Path) -> None:
    made = batches(folder)
    whole = read(folder, made.at(5))
    shares = [made.at(5, first, 4) for first in (0, 4, 8, 12)]
    assert [pair for share in shares for pair in read(folder, share)] == whole
    assert sum(share.targets for share in shares) == made.at(5).targets


def test_a_batch_is_of_like_lengths(folder: Path) -> None:
    made, mixed = batches(folder), batches(folder, pool=1)
    spreads = []
    for one in (made, mixed):
        lengths = [one.at(step).target_length_B.double() for step in range(one.steps_per_epoch)]
        spreads.append(np.mean([float(length.std()) for length in lengths]))
    assert spreads[0] < 0.3 * spreads[1]
    order = [int(made.at(step).target_length_B[0]) for step in range(made.steps_per_epoch)]
    assert order != sorted(order)


def test_pools_do_not_grow_with_the_batch(folder: Path) -> None:
    assert [batches(folder, lanes=lanes, pool=64).pool_batches for lanes in (1, 16, 64, 100)] == [64, 4, 1, 1]


def test_mean_length_and_digests(folder: Path) -> None:
    made, corpus = batches(folder), PairCorpus(folder)
    assert made.length == round(float(corpus.split("train").target_lengths.mean()))
    assert (made.digest, made.vocabulary_digest) == (corpus.digest, corpus.vocabulary_digest)


def test_what_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"too few for a batch of 301\. The largest batch that fits is 300"):
        batches(folder, lanes=301)
    with pytest.raises(UserError, match="Both must be at least 1"):
        batches(folder, lanes=0)
    with pytest.raises(UserError, match="not a prepared corpus"):
        batches(tmp_path)
