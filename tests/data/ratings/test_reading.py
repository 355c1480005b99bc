"""Ratings of every format that is read, and what is refused."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from overnight.data.ratings import RatingSettings, RatingSplits, RatingTable, load_ratings, split_table
from overnight.data.ratings.table import NO_TIME
from overnight.errors import UserError

ALL = RatingSettings(test=0.0)


def cells(splits: RatingSplits, split: str = "train") -> list[tuple[Any, Any, float, int | None]]:
    matrix = splits.split(split)
    rows = np.repeat(np.arange(matrix.user_count), matrix.counts)
    times = matrix.timestamps if matrix.timestamps is not None else [None] * len(matrix)
    return [
        (splits.users[int(u)], splits.items[int(i)], float(v), t if t is None else int(t))
        for u, i, v, t in zip(rows, matrix.items, matrix.values, times, strict=True)
    ]


TIMED = [(3, 7, 4.0, 978300760), (3, 10, -1.5, 978300761), (12, 7, 0.0, 978300762)]
PLAIN = [(user, item, value, None) for user, item, value, _ in TIMED]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("r.csv", "userId,movieId,rating,timestamp\n12,7,0,978300762\n3,7,4.0,978300760\n3,10,-1.5,978300761\n", TIMED),
        ("r.csv", '"Rating","Item","User"\n0,7,12\n4,"7",3\n-1.5,10,3\n', PLAIN),
        ("r.tsv", "user_id\titem_id\tscore\n12\t7\t0\n3\t7\t4\n3\t10\t-1.5\n", PLAIN),
        ("u.data", "12\t7\t0\t978300762\n3\t7\t4\t978300760\n3\t10\t-1.5\t978300761\n", TIMED),
        ("ratings.dat", "12::7::0::978300762\n3::7::4::978300760\n3::10::-1.5::978300761\n", TIMED),
        ("r.txt", "12 7 0\n3 7 4\n3 10 -1.5", PLAIN),
        ("r.csv", "\ufeffuser,item,rating,time\r\n12,7,0,2000-12-31 22:12:42\r\n3,7,4,2000-12-31T22:12:40Z\r\n"
         "3,10,-1.5,2000-12-31T23:12:41+01:00\r\n", TIMED),
        ("mv_0000007.txt", "7:\n12,0,2001-01-02\n3,4,2001-01-01\n10:\n3,-1.5,2001-01-03\n",
         [(3, 7, 4.0, 978307200), (3, 10, -1.5, 978480000), (12, 7, 0.0, 978393600)]),
    ],
)  # fmt: skip
def test_formats(tmp_path: Path, name: str, text: str, expected: list[Any]) -> None:
    (tmp_path / name).write_text(text)
    assert cells(load_ratings(tmp_path / name, ALL)) == expected
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert cells(load_ratings(packed, ALL)) == expected


def test_parquet(tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    columns = {"who": [12, 3, 3], "what": ["7", "7", "10"], "stars": [0.0, 4.0, -1.5], "when": [2, 0, 1]}
    parquet.write_table(pa.table(columns), tmp_path / "r.parquet")
    found = load_ratings(tmp_path / "r.parquet", RatingSettings(("who", "what", "stars", "when"), test=0.0))
    assert cells(found) == [(3, 7, 4.0, 0), (3, 10, -1.5, 1), (12, 7, 0.0, 2)]
    with pytest.raises(UserError, match=r"none of its columns .* is known to be the user"):
        load_ratings(tmp_path / "r.parquet", ALL)
    parquet.write_table(pa.table({**columns, "stars": [0.0, None, 1.0]}), tmp_path / "null.parquet")
    with pytest.raises(UserError, match=r"row 2: the rating '' is no finite number"):
        load_ratings(tmp_path / "null.parquet", RatingSettings(("who", "what", "stars"), test=0.0))


def test_ids_of_any_kind(tmp_path: Path) -> None:
    """Text as text, numbers by their size, and 007 is not 7."""
    (tmp_path / "r.csv").write_text("user,item,rating\nB0-ü,10,1\na b,9,2\n007,9,3\n7,10,4\n")
    found = load_ratings(tmp_path / "r.csv", ALL)
    assert [found.users[i] for i in range(4)] == ["007", "7", "B0-ü", "a b"]
    assert [found.items[i] for i in range(2)] == [9, 10]
    assert found.users.index(["a b", "nobody", 7]).tolist() == [3, -1, 1]
    assert found.items.index(np.array([10, 11])).tolist() == [1, -1]


def test_folders(tmp_path: Path) -> None:
    """The reference's layout with its splits, the Netflix Prize's, MovieLens's."""
    for split, lines in (("TRAIN", ["1\t1\t5\n1\t2\t3\n", "2\t1\t4\n2\t2\t1\n"]), ("VALID", ["1\t9\t4\n2\t2\t2\n"]),
                         ("TEST", ["8\t1\t2\n1\t1\t3\n"])):  # fmt: skip
        (tmp_path / "ref" / f"N3M_{split}").mkdir(parents=True)
        for place, text in enumerate(lines):
            (tmp_path / "ref" / f"N3M_{split}" / f"n3m.{place}.txt").write_text(text)
    found = load_ratings(tmp_path / "ref", ALL)
    assert cells(found) == [(1, 1, 5, None), (1, 2, 3, None), (2, 1, 4, None), (2, 2, 1, None)]
    assert cells(found, "valid") == [(2, 2, 2, None)]
    assert cells(found, "test") == [(1, 1, 3, None)]
    assert found.dropped["valid"] == {"ratings": 1, "cold_users": 0, "cold_items": 1, "squared_error": 0.5625}
    assert found.dropped["test"]["cold_users"] == 1
    prize = tmp_path / "download" / "training_set"
    prize.mkdir(parents=True)
    for movie in (1, 2):
        (prize / f"mv_{movie:07d}.txt").write_text(f"{movie}:\n6,3,2005-09-06\n8,5,2005-05-13\n")
    assert len(load_ratings(tmp_path / "download", ALL).train) == 4
    (tmp_path / "ml").mkdir()
    (tmp_path / "ml" / "movies.csv").write_text("movieId,title\n1,X\n")
    (tmp_path / "ml" / "ratings.csv").write_text("userId,movieId,rating\n1,1,5\n2,2,3\n1,2,3\n")
    assert len(load_ratings(tmp_path / "ml", ALL).train) == 3


def test_the_same_from_columns_in_memory(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("user,item,rating,time\n12,7,0,978300762\n3,7,4,978300760\n3,10,-1.5,978300761\n")
    users, items, values, times = zip(*TIMED, strict=True)
    assert cells(split_table(RatingTable.from_arrays(users, items, values, times), ALL)) == TIMED
    dates = np.array(times, dtype="datetime64[s]")
    for given in (dates, dates.astype("datetime64[ns]"), dates.astype(str), [float(time) for time in times]):
        assert cells(split_table(RatingTable.from_arrays(users, items, values, given), ALL)) == TIMED
    floats = np.array(users, dtype=np.float64), np.array(items, dtype=np.float64)
    assert cells(split_table(RatingTable.from_arrays(*floats, values), ALL)) == PLAIN
    missing = RatingTable.from_arrays(users, items, values, [None, float("nan"), 5])
    assert missing.timestamp is not None
    assert missing.timestamp.tolist() == [NO_TIME, NO_TIME, 5]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (([1, 2], [1, 2], [1.0, float("nan")]), "Rating 1 is nan"),
        (([1, 2], [1, 2], [1.0, None]), "Rating 1 is None"),
        (([1, 2], [1, 2], ["3", "good"]), "Rating 1 is good"),
        (([1, 2], [1, 2], [1.0, 1e300]), r"Rating 1 is 1e\+300"),
        (([1, 2], [1, 2], [1.0]), "differ in length"),
        (([1, None], [1, 2], [1.0, 2.0]), "The user of rating 1 is None"),
        (([1, 2], [1.0, float("nan")], [1.0, 2.0]), "The item of rating 1 is nan"),
        ((["a", " "], [1, 2], [1.0, 2.0]), "The user of rating 1 is ' '"),
        (([1, 2], [1, 2], [1.0, 2.0], ["2001-01-01", "yesterday"]), "The times of the ratings cannot be read"),
        (([1, 2], [1, 2], [1.0, 7.0]), "Rating 1 is 7, outside the scale from 0 to 5"),
        (([], [], []), "There are no ratings"),
    ],
)
def test_columns_that_are_refused(columns: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        split_table(RatingTable.from_arrays(*columns), RatingSettings(test=0.0, scale=(0, 5)))


HEAD = "user,item,rating,timestamp\n"


@pytest.mark.parametrize(
    ("text", "settings", "said"),
    [
        ("", {}, "is empty"),
        (HEAD, {}, "holds no ratings"),
        (HEAD + "1,1,5,1\n1,2,nan,2\n", {}, r"row 3: the rating 'nan' is no finite number"),
        (HEAD + "1,1,5,1\n1,2,inf,2\n", {}, r"row 3: the rating 'inf' is no finite number"),
        (HEAD + "1,1,good,1\n", {}, r"row 2: the rating 'good' is no finite number"),
        (HEAD + "1,1,,1\n", {}, r"row 2: the rating '' is no finite number"),
        (HEAD + ",1,5,1\n", {}, "row 2: the user is ''"),
        (HEAD + "1,1,5,1\n1,2,0,1\n", {"scale": (0.5, 5)}, r"row 3: the rating '0' is outside the scale from 0.5 to 5"),
        (HEAD + "1,1,5,1\n1,2\n", {}, r"Expected 4 columns, got 2"),
        (HEAD + "1,1,5,1\n1,2,4,yesterday\n", {}, "Row #3.*yesterday"),
        (HEAD + "1,1,5,2001-01-01\n1,2,4,yesterday\n", {}, "row 3: the time 'yesterday' cannot be read"),
        ("a,b,c\nx,y,z\n", {}, r"none of its columns \(a, b, c\) is known to be the user"),
        (HEAD + "1,1,5,1\n", {"columns": ("user", "item", "stars")}, "has no column 'stars'. It has: user, item"),
        ("user,movie,item,rating\n1,1,1,1\n", {}, "the item may be in column movie or item"),
        ("1,2\n", {}, "row 1 has 2 fields"),
        (HEAD + "1,1,5,1\n2,1,4,1\n", {}, "All training ratings are of one item, 1"),
        (HEAD + "ann,1,5,1\nann,2,4,1\n", {}, "All training ratings are of one user, ann"),
        (HEAD + "1,1,5,1\n2,7,4,1\n2,7,3,9\n", {}, "User 2 rated item 7 more than once; there are 1 such ratings"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str, settings: dict[str, Any], said: str) -> None:
    (tmp_path / "r.csv").write_text(text)
    with pytest.raises(UserError, match=said) as refused:
        load_ratings(tmp_path / "r.csv", RatingSettings(**{"test": 0.0, **settings}))
    assert "\n" not in str(refused.value).strip()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"columns": ("a",)}, "1 columns were named"),
        ({"duplicates": "first"}, "duplicates='first'"),
        ({"split": "users"}, "split='users'"),
        ({"scale": (5, 1)}, "A scale from 5 to 1"),
        ({"test": 1.0}, "test=1.0 cannot be held out"),
        ({"split": "leave-last", "test": 0.1}, "whole numbers"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        RatingSettings(**settings)


def test_a_damaged_file_and_none(tmp_path: Path) -> None:
    packed = gzip.compress(b"user,item,rating\n" + b"1,1,5\n" * 10_000)
    (tmp_path / "r.csv.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(UserError, match="truncated"):
        load_ratings(tmp_path / "r.csv.gz", ALL)
    with pytest.raises(UserError, match="does not exist"):
        load_ratings(tmp_path / "other.csv", ALL)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no file of ratings"):
        load_ratings(tmp_path / "empty", ALL)
