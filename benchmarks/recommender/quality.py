"""Errors and lists of the recommender beside the mean, damped biases and EASE."""

from pathlib import Path

import numpy as np

from benchmarks.recommender.cells import Cell, Cells
from benchmarks.recommender.nets import ARMS, answers, fit
from benchmarks.recommender.sets import RELEVANT, pairs, splits
from overnight.data.ratings.table import RatingMatrix, RatingSplits
from overnight.evaluate.ranking import Scores, evaluate_errors, evaluate_ranking
from overnight.evaluate.rating_baselines import damped_biases, ease, global_mean

BASELINES = ("mean", "biases", "popular", "ease")
LISTS = (10, 50)


def measure(cells: Cells, name: str, on: str, seed: int, scratch: Path) -> None:
    """All arms on a set: baselines once, a net by user, one by item, and the mean of both, on a test or valid split."""
    key = {"part": "quality", "set": name, "on": on}
    for arm in BASELINES:
        cells.add({**key, "arm": arm}, lambda arm=arm: baseline(arm, name, on))  # type: ignore[misc]
    for arm in ARMS:
        cells.add({**key, "arm": arm, "seed": seed}, lambda arm=arm: trained(arm, name, on, seed, scratch))  # type: ignore[misc]
    if all(cells.find(**key, arm=arm, seed=seed) for arm in ARMS):
        cells.add({**key, "arm": "both", "seed": seed}, lambda: together(name, on, seed, scratch))


def baseline(arm: str, name: str, on: str) -> Cell:
    """One of ``BASELINES``; lists only of those that predict no ratings."""
    found, relevant = splits(name, on), RELEVANT.get(name, 4.0)
    train = found.train
    if arm == "ease":
        return lists(ease(train, relevant=relevant).scores, found, relevant)
    if arm == "popular":
        liked = np.bincount(train.items[train.values >= relevant], minlength=train.item_count).astype(float)
        return lists(lambda shown, users: np.broadcast_to(liked, (len(users), len(liked))), found, relevant)
    by = global_mean(train) if arm == "mean" else damped_biases(train)
    errors = evaluate_errors(by.predict, found.test)
    cell = {"rmse": errors.rmse, "mae": errors.mae, "ratings": errors.ratings}
    return cell if arm == "mean" else {**cell, **lists(by.scores, found, relevant)}


def trained(arm: str, name: str, on: str, seed: int, scratch: Path) -> Cell:
    """A net; what it says of all users and items is kept for ``together``."""
    found, setting = splits(name, on), ARMS[arm]
    net = fit(found.train if setting.by == "user" else found.train.transposed(), setting, seed)
    said = answers(net, found, setting.by)
    scratch.mkdir(parents=True, exist_ok=True)
    np.save(_file(scratch, arm, name, on, seed), said)
    return scored(said, found, name)


def together(name: str, on: str, seed: int, scratch: Path) -> Cell:
    """The mean of what the nets say."""
    said = np.mean([np.load(_file(scratch, arm, name, on, seed)) for arm in ARMS], axis=0)
    return scored(said, splits(name, on), name)


def scored(said_Un: np.ndarray, found: RatingSplits, name: str) -> Cell:
    """Errors within the range of the training ratings, and lists."""
    low, high = found.train.bounds
    user_N, item_N = pairs(found.test)
    error_N = np.clip(said_Un[user_N, item_N], low, high).astype(np.float64) - found.test.values
    cell = {"rmse": float(np.sqrt((error_N**2).mean())), "mae": float(np.abs(error_N).mean()), "ratings": len(error_N)}

    def scores(shown: RatingMatrix, users: np.ndarray) -> np.ndarray:
        picked: np.ndarray = said_Un[users]
        return picked

    return {**cell, **lists(scores, found, RELEVANT.get(name, 4.0))}


def lists(scores: Scores, found: RatingSplits, relevant: float) -> Cell:
    """recall and NDCG of what was rated at least so high."""
    ranking = evaluate_ranking(scores, found.train, found.test, LISTS, relevant=relevant)
    return {f"{kind}@{k}": getattr(ranking, kind)[k] for kind in ("recall", "ndcg") for k in LISTS}


def _file(scratch: Path, arm: str, name: str, on: str, seed: int) -> Path:
    return scratch / f"{name.replace(' ', '-')}-{on}-{arm}-{seed}.npy"
