"""Batches of words: lanes as for bytes, reset before sentences; windows of n words that stay inside a sentence."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from overnight.data.ingest import PrepareSettings
from overnight.data.words import WordCorpus
from overnight.data.words.lanes import word_lanes
from overnight.data.words.ngrams import ngram_windows
from overnight.data.words.preparation import prepare_words
from overnight.data.words.settings import WordSettings
from overnight.data.words.shuffle import Shuffle
from overnight.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some hundred sentences of ids in several shards, and a valid split of three."""
    root = tmp_path_factory.mktemp("words")
    rng = np.random.default_rng(1)
    for name, count in (("train", 300), ("valid", 3)):
        lines = [[1, 1, *rng.integers(3, 200, rng.integers(0, 8)), 2] for _ in range(count)]
        (root / f"my.{name}.ids").write_text("".join(" ".join(map(str, line)) + "\n" for line in lines))
    text = PrepareSettings(document="line", shard_mb=0.0008)
    prepare_words([root], root / "corpus", WordSettings(vocab_size=200, text=text))
    return root / "corpus"


def ids_of(folder: Path, split: str = "train") -> list[int]:
    corpus = WordCorpus.open(folder)
    found = np.concatenate([np.fromfile(shard.path, corpus.dtype) for shard in corpus.shards(split)])
    return [int(i) for i in found]


@pytest.mark.parametrize("seed", [None, 3])
def test_a_lane_goes_on_from_step_to_step(folder: Path, seed: int | None) -> None:
    ids = ids_of(folder)
    lanes = word_lanes(corpus=str(folder), lanes=4, seed=seed, length=7)
    assert lanes.steps_per_epoch == (len(ids) // 4 - 1) // 7
    for epoch in range(2):
        start = lanes.epoch_offset(epoch)
        steps = [lanes.at(epoch * lanes.steps_per_epoch + step) for step in range(lanes.steps_per_epoch)]
        read = torch.cat([batch.input_TB for batch in steps])
        assert read.dtype == torch.int64
        for lane in range(4):
            at = [(start + lane * lanes.lane_size + t) % len(ids) for t in range(len(read) + 1)]
            assert read[:, lane].tolist() == [ids[i] for i in at[:-1]]
            assert steps[-1].target_TB[-1, lane] == ids[at[-1]]
    share = lanes.at(5, first=1, count=2)
    assert torch.equal(share.input_TB, lanes.at(5).input_TB[:, 1:3])


def test_resets_stand_at_the_ends_before_sentences_and_shards(folder: Path) -> None:
    corpus = WordCorpus.open(folder)
    assert len(corpus.shards("train")) > 2
    per_sentence = word_lanes(corpus=str(folder), lanes=3, seed=0, length=50, reset="sentence")
    per_shard = word_lanes(corpus=str(folder), lanes=3, seed=None, length=50, reset="shard")
    ids = ids_of(folder)
    last = {len(ids) - 1} | {int(start) - 1 for start in corpus.split("train").shard_starts if start}
    for step in range(1, per_sentence.steps_per_epoch):
        batch = per_sentence.at(step)
        assert torch.equal(batch.reset_TB, batch.input_TB == 2)
        found = per_shard.at(step).reset_TB
        start = [lane * per_shard.lane_size + step * 50 for lane in range(3)]
        assert found.tolist() == [[start[b] + t in last for b in range(3)] for t in range(50)]
        assert not word_lanes(corpus=str(folder), lanes=3, seed=0, length=50).at(step).reset_TB.any()


@pytest.mark.parametrize("order", [2, 3, 5])
def test_windows_cover_every_word_once_and_stay_inside_their_sentence(folder: Path, order: int) -> None:
    windows = ngram_windows(corpus=str(folder), lanes=64, seed=None, order=order)
    found = [(*context, target) for batch in windows.in_order() for context, target in rows(batch)]
    expected, sentence = [], []
    for word in ids_of(folder):
        sentence.append(word)
        padded = [1] * (order - 1) + sentence
        expected.append(tuple(padded[-order:]))
        if word == 2:
            sentence = []
    assert found == expected
    shuffled = ngram_windows(corpus=str(folder), lanes=10, seed=4, order=order)
    epochs = []
    for epoch in range(2):
        steps = range(epoch * shuffled.steps_per_epoch, (epoch + 1) * shuffled.steps_per_epoch)
        epochs.append([(*context, target) for step in steps for context, target in rows(shuffled.at(step))])
        assert len(epochs[-1]) == len(expected) // 10 * 10
        # what an epoch leaves out is less than a batch
        assert sum((count(expected) - count(epochs[-1])).values()) < 10
    assert epochs[0] != epochs[1]
    part = shuffled.at(7, first=4, count=3)
    assert torch.equal(part.context_BC, shuffled.at(7).context_BC[4:7])
    assert torch.equal(part.target_B, shuffled.at(7).target_B[4:7])


def rows(batch: object) -> list[tuple[list[int], int]]:
    return list(zip(batch.context_BC.tolist(), batch.target_B.tolist(), strict=True))  # type: ignore[attr-defined]


def count(windows: list[tuple[int, ...]]) -> Counter[tuple[int, ...]]:
    return Counter(windows)


@pytest.mark.parametrize("size", [1, 2, 3, 16, 17, 1000, 4097])
def test_a_shuffle_has_everything_once(size: int) -> None:
    order = Shuffle(size, (1, 2))(np.arange(size))
    assert sorted(order.tolist()) == list(range(size))
    assert np.array_equal(order[size // 2 :], Shuffle(size, (1, 2))(np.arange(size // 2, size)))


def test_a_shuffle_is_well_mixed() -> None:
    size = 50_000
    order = Shuffle(size, (0,))(np.arange(size))
    # places against values, both in 20 parts: chi-square of 361 degrees of freedom, 99.9 % below 451
    table = np.histogram2d(np.arange(size), order, bins=20)[0]
    assert ((table - size / 400) ** 2 / (size / 400)).sum() < 451
    steps = np.diff(order)
    assert abs(np.corrcoef(steps[:-1], steps[1:])[0, 1] + 0.5) < 0.02


def test_a_split_is_a_stream_of_words(folder: Path) -> None:
    ids, stream = ids_of(folder), WordCorpus.open(folder).split("train")
    assert len(stream) == len(ids)
    assert stream.read(len(ids) - 2, 4).tolist() == ids[-2:] + ids[:2]
    places = np.random.default_rng(0).integers(0, len(ids), (5, 4))
    assert stream.take(places).tolist() == [[ids[i] for i in row] for row in places]
    assert stream.head(100).counts(200).tolist() == [ids[:100].count(i) for i in range(200)]
    assert WordCorpus.open(folder).counts.tolist() == [ids.count(i) for i in range(200)]
    assert stream.document_starts.tolist() == [0] + [i + 1 for i, word in enumerate(ids[:-1]) if word == 2]


def test_what_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too few for 99 lanes of 100 words"):
        word_lanes(corpus=str(folder), lanes=99, seed=0, length=100)
    with pytest.raises(UserError, match=r"The split test of .* has no words"):
        word_lanes(corpus=str(folder), lanes=2, seed=0, split="test")
    with pytest.raises(UserError, match="'week' is not a split"):
        word_lanes(corpus=str(folder), lanes=2, seed=0, split="week")
    with pytest.raises(UserError, match=r"reset='document' is not known. Choose one of never, sentence, shard"):
        word_lanes(corpus=str(folder), lanes=2, seed=0, reset="document")
    with pytest.raises(UserError, match="Windows of 1 words have no context"):
        ngram_windows(corpus=str(folder), lanes=2, seed=0, order=1)
    with pytest.raises(UserError, match="Take a batch from 1 to"):
        ngram_windows(corpus=str(folder), lanes=10**6, seed=0)
    (tmp_path / "a.txt").write_text("a b\nc d\n")
    prepare_words([tmp_path / "a.txt"], tmp_path / "out", WordSettings(eos="none", split=(1, 0, 0)))
    with pytest.raises(UserError, match="marks no ends of sentences"):
        word_lanes(corpus=str(tmp_path / "out"), lanes=1, seed=0, length=2, reset="sentence")
    batch = next(ngram_windows(corpus=str(tmp_path / "out"), lanes=4, seed=None, order=3).in_order())
    assert [WordCorpus.open(tmp_path / "out").words[i] for i in batch.context_BC[3].tolist()] == ["b", "c"]


@pytest.mark.parametrize("name", ["vocab.txt", "counts.bin", "train/00000.bin"])
def test_files_that_were_altered(folder: Path, tmp_path: Path, name: str) -> None:
    import shutil

    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    data = bytearray((copy / name).read_bytes())
    data[0] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name} was altered after the manifest was written"):
        word_lanes(corpus=str(copy), lanes=2, seed=0)
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing or unreadable"):
        WordCorpus.open(copy).verify()
