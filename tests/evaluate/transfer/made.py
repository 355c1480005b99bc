"""A labelled set with features made up for the tests: unit 7 is lower, and unit 3 a little higher, the higher the
class."""

from dataclasses import dataclass

import numpy as np

from overnight.data.labelled import Examples, LabelledSet

WORDS = ("bad", "good", "odd")
UNITS = 12
COUNTS = {"train": 240, "dev": 60, "test": 120}


@dataclass
class Made:
    data: LabelledSet
    train: np.ndarray
    dev: np.ndarray
    test: np.ndarray


def make_set(classes: int = 2, seed: int = 0, dev: bool = True) -> Made:
    draw = np.random.default_rng(seed)
    parts, features = {}, {}
    for split, count in COUNTS.items():
        labels = draw.permutation(np.arange(count) % classes)
        rows = draw.normal(size=(count, UNITS)).astype(np.float32)
        rows[:, 7] -= 2 * labels
        rows[:, 3] += 0.5 * labels
        features[split] = rows
        texts = [f"a {WORDS[k] if draw.random() < 0.8 else 'plain'} film, no {draw.integers(40)}" for k in labels]
        parts[split] = Examples(texts, [WORDS[k] for k in labels], f"{split}.csv")
    found = LabelledSet(
        "made", WORDS[:classes], parts["train"], parts["dev"] if dev else None, parts["test"], "the set's own"
    )
    return Made(found, features["train"], features["dev"], features["test"])


def ids(examples: Examples) -> np.ndarray:
    return np.array([WORDS.index(label) for label in examples.labels])
