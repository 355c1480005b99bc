"""Splits, duplicates, and the corpus on disk against the same in memory."""

import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from oracles.ratings import triples, write_ratings

from overnight.data.ratings import RatingSettings, RatingSplits, RatingTable, load_ratings, split_table
from overnight.data.ratings.columns import MatrixWriter
from overnight.data.ratings.corpus import FILES, RatingCorpus
from overnight.data.ratings.preparation import prepare_ratings
from overnight.data.ratings.sorting import Gathered, matrix_of, sort_ratings
from overnight.data.ratings.splits import time_cutoff
from overnight.data.ratings.table import RatingMatrix
from overnight.errors import UserError

TABLE = RatingTable.from_arrays(*zip(*triples(), strict=True))
SPLITS = (
    RatingSettings(split="random", valid=0.1, test=0.2, seed=3),
    RatingSettings(split="time", valid=0.1, test=0.1),
    RatingSettings(split="leave-last", valid=1, test=2),
)


def cells(splits: RatingSplits, name: str) -> set[tuple[Any, ...]]:
    matrix = splits.split(name)
    assert matrix.timestamps is not None
    rows = np.repeat(np.arange(matrix.user_count), matrix.counts)
    return {
        (splits.users[int(u)], splits.items[int(i)], float(v), int(t))
        for u, i, v, t in zip(rows, matrix.items, matrix.values, matrix.timestamps, strict=True)
    }


@pytest.mark.parametrize("settings", SPLITS, ids=lambda settings: settings.split)
def test_every_rating_goes_to_one_place(settings: RatingSettings) -> None:
    splits = split_table(TABLE, settings)
    parts = [cells(splits, name) for name in ("train", "valid", "test")]
    dropped = sum(int(splits.dropped[name]["ratings"]) for name in ("valid", "test"))
    assert sum(map(len, parts)) + dropped == len(set().union(*parts)) + dropped == len(TABLE)
    assert set().union(*parts) <= set(triples())
    assert all(map(len, parts))
    for matrix in (splits.train, splits.valid, splits.test):
        for user in range(matrix.user_count):
            assert (np.diff(matrix.items[matrix.offsets[user] : matrix.offsets[user + 1]]) > 0).all()
    assert (splits.train.counts > 0).all()
    assert set(splits.train.items.tolist()) == set(range(len(splits.items)))
    again = split_table(TABLE, settings)
    assert again.train.digest == splits.train.digest
    assert (again.train.transposed().transposed().digest) == splits.train.digest


def test_random_by_seed() -> None:
    one, two = (split_table(TABLE, RatingSettings(test=0.2, seed=seed)) for seed in (0, 1))
    assert one.train.digest != two.train.digest
    assert 0.1 < len(one.test) / len(TABLE) < 0.3


def test_by_time_nothing_is_trained_on_that_is_later() -> None:
    splits = split_table(TABLE, RatingSettings(split="time", valid=0.1, test=0.1))
    latest = max(cell[3] for cell in cells(splits, "train"))
    assert all(cell[3] > latest for name in ("valid", "test") for cell in cells(splits, name))
    assert len(splits.train) == int(0.8 * len(TABLE))


def test_by_time_cold_users_and_items_are_counted() -> None:
    train = [("a", "x", 1, 1), ("b", "y", 2, 2), ("a", "y", 3, 3), ("b", "x", 3, 4)]
    later = [("new", "x", 5, 9), ("a", "z", 1, 9), ("new", "z", 4, 9), ("b", "z", 4, 9)]
    splits = split_table(
        RatingTable.from_arrays(*zip(*train, *later, strict=True)), RatingSettings(split="time", test=0.5)
    )
    assert (len(splits.train), len(splits.test), len(splits.users), len(splits.items)) == (4, 0, 2, 2)
    mean = 9 / 4
    assert splits.dropped["test"] == {
        "ratings": 4, "cold_users": 2, "cold_items": 3, "squared_error": sum((v - mean) ** 2 for v in (5, 1, 4, 4)),
    }  # fmt: skip


def test_leave_last_k() -> None:
    splits = split_table(TABLE, RatingSettings(split="leave-last", valid=1, test=2))
    parts = [cells(splits, name) for name in ("train", "valid", "test")]
    for user in range(40):
        train, valid, test = (sorted(cell[3] for cell in part if cell[0] == user) for part in parts)
        assert all(early[-1] <= late[0] for early, late in pairwise([p for p in (train, valid, test) if p]))
        if len(train) + len(valid) + len(test) == sum(row[0] == user for row in triples()) > 3:
            assert (len(valid), len(test)) == (1, 2)
    few = split_table(
        RatingTable.from_arrays([1, 1, 2], [1, 2, 1], [3, 4, 5], [1, 2, 3]), RatingSettings(split="leave-last", test=2)
    )
    assert (len(few.train), len(few.test)) == (3, 0)


@pytest.mark.parametrize(("times", "said"), [
    (None, "have no times, which --split time needs"),
    ([1, 2, np.iinfo(np.int64).min], "The rating of item 20 by user 2 has no time"),
    ([1, 2, int(time.time()) + 10 * 86_400], "by user 2 is dated 20.*in the future"),
    ([1, 2, int(time.time()) * 1000], "in the future"),
])  # fmt: skip
def test_times_that_cannot_split(times: Any, said: str) -> None:
    table = RatingTable.from_arrays([1, 1, 2], [10, 20, 20], [1, 2, 3], times)
    for split in ("time", "leave-last"):
        with pytest.raises(UserError, match=said.replace("time needs", f"{split} needs")):
            split_table(table, RatingSettings(split=split, test=0.3 if split == "time" else 1))  # type: ignore[arg-type]
    assert len(split_table(table, RatingSettings(test=0.0)).train) == 3


def test_a_time_missing_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("user,item,rating,timestamp\n1,1,5,1\n2,7,4,\n2,1,3,9\n")
    with pytest.raises(UserError, match="item 7 by user 2 has no time"):
        load_ratings(tmp_path / "r.csv", RatingSettings(split="time", test=0.3))


def test_the_cutoff_is_the_sorted_one() -> None:
    for high in (10, 1 << 20, 1 << 50):
        times = np.random.default_rng(0).integers(-high, high, 999)
        matrix = RatingMatrix(np.array([0, 999]), np.zeros(999, np.int32), np.zeros(999, np.float32), times, 1)
        for share in (0.5, 0.1, 0.001):
            assert time_cutoff(matrix, share) == np.sort(times)[int((1 - share) * 999)]


def test_duplicates() -> None:
    table = RatingTable.from_arrays([1, 1, 1, 2, 1], [5, 5, 6, 5, 5], [4.0, 1.0, 3.0, 2.0, 2.5], [9, 3, 1, 1, 3])
    with pytest.raises(UserError, match="User 1 rated item 5 more than once; there are 2 such ratings"):
        matrix_of(Gathered.of(table))
    assert matrix_of(Gathered.of(table), "last").values.tolist() == [4.0, 3.0, 2.0]
    assert matrix_of(Gathered.of(table), "mean").values.tolist() == [2.5, 3.0, 2.0]
    untimed = RatingTable.from_arrays([1, 1, 1, 2, 1], [5, 5, 6, 5, 5], [4.0, 1.0, 3.0, 2.0, 2.5])
    assert matrix_of(Gathered.of(untimed), "last").values.tolist() == [2.5, 3.0, 2.0]


@pytest.mark.parametrize("bucket", [1, 50, 10_000])
@pytest.mark.parametrize("duplicates", ["last", "mean"])
def test_sorting_in_parts_is_sorting_at_once(tmp_path: Path, bucket: int, duplicates: str) -> None:
    rows = triples() + triples(seed=11)[:150]
    gathered = Gathered.of(RatingTable.from_arrays(*zip(*rows, strict=True)))
    writer = MatrixWriter(tmp_path, "all", True)
    sort_ratings(gathered, duplicates, writer, tmp_path, bucket)
    found, whole = writer.finish(len(gathered.items))[0], matrix_of(gathered, duplicates)
    assert found.digest == whole.digest
    assert np.array_equal(found.timestamps, whole.timestamps)  # type: ignore[arg-type]
    assert not list(tmp_path.glob("bucket*"))


@pytest.mark.parametrize("settings", SPLITS, ids=lambda settings: settings.split)
def test_a_corpus_holds_what_memory_would(tmp_path: Path, settings: RatingSettings) -> None:
    file = write_ratings(tmp_path / "r.csv")
    manifest = prepare_ratings(file, tmp_path / "corpus", settings)
    mine, its = load_ratings(file, settings), load_ratings(tmp_path / "corpus")
    for name in ("train", "valid", "test"):
        assert mine.split(name).digest == its.split(name).digest
        assert manifest["splits"][name]["ratings"] == len(its.split(name)) > 0
        assert np.array_equal(mine.split(name).timestamps, its.split(name).timestamps)  # type: ignore[arg-type]
    assert isinstance(its.train.values, np.memmap)
    assert (its.dropped, its.users.names, its.items.names) == (mine.dropped, mine.users.names, mine.items.names)
    assert {entry.name for entry in (tmp_path / "corpus").iterdir()} == {*FILES, "manifest.json"}
    RatingCorpus(tmp_path / "corpus").verify()
    assert prepare_ratings(file, tmp_path / "corpus", settings, notify=lambda said: None) == manifest


def test_by_item(tmp_path: Path) -> None:
    """The same ratings, rows for items; of a corpus too."""
    file = write_ratings(tmp_path / "r.csv")
    mine, its = load_ratings(file, SPLITS[0]), load_ratings(file, replace(SPLITS[0], by="item"))
    assert (its.users.names, its.items.names) == (mine.items.names, mine.users.names)
    for name in ("train", "valid", "test"):
        assert cells(its, name) == {(item, user, *rest) for user, item, *rest in cells(mine, name)}
    assert split_table(TABLE, replace(SPLITS[0], by="item")).train.digest == split_table(
        TABLE, SPLITS[0]).train.transposed().digest  # fmt: skip
    prepare_ratings(file, tmp_path / "corpus", SPLITS[0])
    assert load_ratings(tmp_path / "corpus", RatingSettings(by="item")).train.digest == its.train.digest


def test_nothing_half_written_is_left(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("user,item,rating\n1,1,5\n2,2,4\n2,2,3\n")
    with pytest.raises(UserError, match="more than once"):
        prepare_ratings(tmp_path / "r.csv", tmp_path / "corpus", RatingSettings(test=0.0))
    assert not (tmp_path / "corpus").exists()
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match="holds something else"):
        prepare_ratings(
            tmp_path / "r.csv", tmp_path / "corpus", RatingSettings(duplicates="mean", test=0.0), force=True
        )
    assert (tmp_path / "corpus" / "mine.txt").read_text() == "kept"


def test_a_corpus_that_was_altered(tmp_path: Path) -> None:
    prepare_ratings(write_ratings(tmp_path / "r.csv"), tmp_path / "corpus")
    values = tmp_path / "corpus" / "train.values.bin"
    content = values.read_bytes()
    values.write_bytes(b"\0" * len(content))
    with pytest.raises(UserError, match=r"train\.values\.bin was altered"):
        RatingCorpus(tmp_path / "corpus").verify()
    values.write_bytes(content[:-4])
    with pytest.raises(UserError, match=r"by its manifest it has"):
        load_ratings(tmp_path / "corpus")
    (tmp_path / "corpus" / "manifest.json").unlink()
    with pytest.raises(UserError, match="is not a corpus of ratings"):
        RatingCorpus(tmp_path / "corpus")
