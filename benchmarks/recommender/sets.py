"""The sets of ratings: what is trained on, and what is held out."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from overnight.data.ratings.loading import load_ratings, split_table
from overnight.data.ratings.settings import RatingSettings, Split
from overnight.data.ratings.table import RatingMatrix, RatingSplits, RatingTable

TENTH = RatingSettings(test=0.1)
LAST_TENTH = RatingSettings(split="time", test=0.1)
RELEVANT = {"jester": 5.0}
"""Ratings of at least this are items to be found; 4 elsewhere."""


def folder() -> Path:
    """Where the sets are: the environment variable OVERNIGHT_DATA."""
    return Path(os.environ["OVERNIGHT_DATA"])


def _small(name: str) -> RatingSplits:
    return load_ratings(folder() / f"movielens_100k/{name}.base", test=folder() / f"movielens_100k/{name}.test")


SETS: dict[str, Callable[[], RatingSplits]] = {
    "ml-100k u1": lambda: _small("u1"),
    "ml-100k u2": lambda: _small("u2"),
    "ml-100k time": lambda: load_ratings(folder() / "movielens_100k/u.data", LAST_TENTH),
    "ml-latest-small random": lambda: load_ratings(folder() / "movielens_latest_small/ratings.csv", TENTH),
    "ml-latest-small time": lambda: load_ratings(folder() / "movielens_latest_small/ratings.csv", LAST_TENTH),
    "jester": lambda: load_ratings(folder() / "jester/ratings.tsv.gz", TENTH),
}


@cache
def splits(name: str, on: str) -> RatingSplits:
    """A set, or with ``on`` valid the same without its test ratings: a tenth of the training ratings is the test."""
    found = SETS[name]()
    if on == "test":
        return found
    how: Split = "time" if name.endswith("time") else "random"
    return split_table(table(found), RatingSettings(split=how, test=0.1))


def table(of: RatingSplits) -> RatingTable:
    """The training ratings as they might have been read."""
    train = of.train
    user_N = np.repeat(np.arange(train.user_count, dtype=np.int32), train.counts)
    return RatingTable(user_N, train.items, train.values, train.timestamps, of.users, of.items)


@cache
def generated(users: int, items: int, each: int, seed: int = 0) -> RatingSplits:
    """Ratings 1 to 5 from eight hidden tastes, biases and noise of 0.8; popular items more often; a tenth held out."""
    draw = np.random.default_rng(seed)
    taste, kind = draw.normal(size=(users, 8)), draw.normal(size=(items, 8)) / 8**0.5
    popularity = 1 / (10 + np.arange(items)) ** 0.8
    item = np.sort(draw.choice(items, size=(users, each), p=popularity / popularity.sum()), axis=1)
    user = np.repeat(np.arange(users), each)
    item_N = item.reshape(-1)
    first = np.concatenate([[True], (np.diff(item_N) != 0) | (np.diff(user) != 0)])
    user, item_N = user[first], item_N[first]
    clean = (taste[user] * kind[item_N]).sum(1) * 0.7 + 0.4 * draw.normal(size=users)[user]
    rating = 3.5 + clean + 0.4 * draw.normal(size=items)[item_N] + 0.8 * draw.normal(size=len(user))
    values = np.clip(np.round(rating), 1, 5).astype(np.float32)
    return split_table(RatingTable.from_arrays(user, item_N, values), TENTH)


def pairs(matrix: RatingMatrix) -> tuple[np.ndarray, np.ndarray]:
    """User and item of each rating."""
    return np.repeat(np.arange(matrix.user_count), matrix.counts), np.asarray(matrix.items, dtype=np.int64)
