"""Accuracy against the number of labels, for units and n-grams on the same samples."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overnight.evaluate.transfer.scores import accuracy_of

Ids = NDArray[np.int64]

_T_975 = {2: 12.706, 3: 4.303, 5: 2.776, 10: 2.262}
"""Student's t for the mean of so many repeats, 97.5 %."""


def few_shot_sizes(count: int) -> list[int]:
    """10, 30, 100, … labels, as long as they are fewer than `count`.

    >>> few_shot_sizes(6920)
    [10, 30, 100, 300, 1000, 3000]
    """
    sizes = [round(base * 10.0**power) for power in range(1, 7) for base in (1, 3)]
    return [size for size in sizes if size < count]


def repeats_of(size: int) -> int:
    """How many samples of a size are drawn: fewer of large ones, which vary less and cost more."""
    return 10 if size <= 100 else 5 if size <= 1000 else 3


def few_shot_curve(
    labels_N: Ids,
    test_labels: Ids,
    classes: int,
    learners: dict[str, Callable[[Ids], Ids]],
    *,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
    on_progress: Callable[[str], None] = lambda message: None,
) -> list[dict[str, Any]]:
    """Test accuracy after learning from a few examples, drawn again and again.

    Args:
        labels_N: of the training examples, which samples are drawn from; each class gets its share, at least one.
        test_labels: what predictions are compared with.
        learners: by name, (indices of training examples) → predicted classes of the test texts.
        sizes: numbers of labels; by default 10, 30, 100, …
        seed: of the samples.

    Returns:
        One record each learner and size: {"learner", "labels", "repeats", "mean", "low", "high", "values"}; low to
        high is the 95 % interval (Student's t) of the mean over samples, the test set being given.
    """
    found = []
    for size in few_shot_sizes(len(labels_N)) if sizes is None else sizes:
        if size < classes or size > len(labels_N):
            continue
        repeats = repeats_of(size)
        values: dict[str, list[float]] = {name: [] for name in learners}
        for repeat in range(repeats):
            on_progress(f"few-shot curve: {size:,} labels, sample {repeat + 1} of {repeats}")
            chosen = _sample(labels_N, classes, size, np.random.default_rng([seed, size, repeat]))
            for name, learn in learners.items():
                values[name].append(accuracy_of(test_labels, learn(chosen)))
        for name, scores in values.items():
            mean = float(np.mean(scores))
            half = _T_975[repeats] * float(np.std(scores, ddof=1)) / repeats**0.5
            record = {"learner": name, "labels": size, "repeats": repeats, "mean": mean}
            found.append(record | {"low": max(0.0, mean - half), "high": min(1.0, mean + half), "values": scores})
    return found


def _sample(labels_N: Ids, classes: int, size: int, draw: np.random.Generator) -> Ids:
    """Indices of `size` examples with the classes in their proportions, each at least once."""
    shuffled = draw.permutation(len(labels_N))
    of_class = [shuffled[labels_N[shuffled] == k] for k in range(classes)]
    shares = np.array([len(members) for members in of_class]) * size / len(labels_N)
    counts = np.maximum(1, np.floor(shares).astype(int))
    while counts.sum() > size:
        counts[counts.argmax()] -= 1
    while counts.sum() < size:
        room = np.array([len(members) for members in of_class]) > counts
        counts[np.where(room, shares - counts, -np.inf).argmax()] += 1
    return np.concatenate([members[:count] for members, count in zip(of_class, counts, strict=True)])
