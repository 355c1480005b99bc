"""Train, dev and test examples of a labelled set, from a file, several files or a folder."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from overnight.data.ingest.sources import COMPRESSIONS, FORMATS
from overnight.data.labelled.records import find_source, read_records
from overnight.errors import UserError

DATA_VARIABLE = "OVERNIGHT_DATA"
"""The environment variable that names a folder of labelled sets, each a folder."""

_WORDS = {"train": "train", "training": "train", "dev": "dev", "valid": "dev", "validation": "dev", "val": "dev",
          "test": "test"}  # fmt: skip
_MOST_CLASSES = 1000


@dataclass(frozen=True)
class Examples:
    """Texts and their labels; `source` is where they come from, for messages."""

    texts: list[str]
    labels: list[str]
    source: str

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Iterable[int]) -> Examples:
        """These examples, in this order."""
        chosen = list(indices)
        return Examples([self.texts[i] for i in chosen], [self.labels[i] for i in chosen], self.source)


@dataclass(frozen=True)
class LabelledSet:
    """A labelled set whose classes are those of its training examples; `dev` is None where there is none.

    `split` says in words how the examples were split.
    """

    name: str
    classes: tuple[str, ...]
    train: Examples
    dev: Examples | None
    test: Examples
    split: str


def labelled_set(
    data: str | Path,
    *,
    dev: str | Path | None = None,
    test: str | Path | None = None,
    text_field: str | None = None,
    label_field: str | None = None,
    format: str | None = None,
    test_share: float = 0.2,
    seed: int = 0,
) -> LabelledSet:
    """Read a labelled set and check its labels.

    Args:
        data: a file; a folder with files named after their splits (train, dev or valid, test) or with one file; or
            the name of a folder in that of the environment variable OVERNIGHT_DATA. A set without a test split is
            split: each class gives `test_share` of its examples, drawn with `seed`.
        dev: a file with the dev split, where `data` is a file.
        test: likewise with the test split.
        text_field: the field with the text; guessed where it is obvious.
        label_field: likewise with the label.
        format: read every file as this format whatever its name says.
        test_share: between 0 and 1.
        seed: of the split.

    Raises:
        UserError: a file is missing, empty or malformed; a label is missing; there is one class only; or dev or test
            have a label that training examples have not.
    """
    if not 0 < test_share < 1:
        raise UserError(f"A test share of {test_share} leaves nothing.", "Give a number between 0 and 1, such as 0.2.")
    name, files = _files(data, dev, test)
    found = {
        split: _examples(file, text_field, label_field, format) for split, file in files.items() if file is not None
    }
    train = found["train"]
    told = "the set's own"
    if "test" not in found:
        _classes(train)
        rest, held = _stratified(train.labels, test_share, seed)
        train, found["test"] = train.take(rest), train.take(held)
        told = f"test is {100 * test_share:.3g} % of each class of {train.source}, seed {seed}"
    classes = _classes(train)
    for examples in [found[split] for split in ("dev", "test") if split in found]:
        unseen = sorted(set(examples.labels) - set(classes))
        if unseen:
            raise UserError(
                f"{examples.source} has labels that {train.source} has not: {', '.join(unseen[:5])}.",
                "Leave those examples out, or add some to the training examples.",
            )
    return LabelledSet(name, classes, train, found.get("dev"), found["test"], told)


def sorted_classes(labels: Iterable[str]) -> tuple[str, ...]:
    """The different labels, whole numbers by their value.

    >>> sorted_classes(["10", "9", "10"]), sorted_classes(["pos", "neg"])
    (('9', '10'), ('neg', 'pos'))
    """
    found = set(labels)
    if all(re.fullmatch(r"[+-]?[0-9]{1,18}", label) for label in found):
        return tuple(sorted(found, key=lambda label: (int(label), label)))
    return tuple(sorted(found))


def _files(data: str | Path, dev: str | Path | None, test: str | Path | None) -> tuple[str, dict[str, Path | None]]:
    place = Path(data)
    if not place.exists():
        root = os.environ.get(DATA_VARIABLE)
        if root is None or not (Path(root) / place).is_dir() or place.is_absolute():
            remedy = (
                f"Check the path; a set's name, such as sst2, is looked up in the folder that {DATA_VARIABLE} names."
            )
            raise UserError(f"There is no file or folder {data}.", remedy)
        place = Path(root) / place
    if not place.is_dir():
        name = place.name.split(".")[0] or place.name
        return name, {"train": place, "dev": dev and Path(dev), "test": test and Path(test)}  # type: ignore[dict-item]
    if dev or test:
        raise UserError(f"{place} is a folder, so --dev and --test have no meaning.", "Name the training file instead.")
    files = sorted(file for file in place.iterdir() if file.is_file() and not file.name.startswith("."))
    by_split: dict[str, list[Path]] = {}
    for file in files:
        for word in dict.fromkeys(re.split(r"[^a-z]+", file.name.lower())):
            if word in _WORDS:
                by_split.setdefault(_WORDS[word], []).append(file)
                break
    for split, several in by_split.items():
        if len(several) > 1:
            listed = ", ".join(file.name for file in several)
            raise UserError(f"{place} has several files for {split}: {listed}.", "Leave one, or name the files.")
    if "train" in by_split:
        return place.name, {split: several[0] for split, several in by_split.items()}
    usable = [file for file in files if _known(file) or len(files) == 1]
    if len(usable) != 1:
        raise UserError(
            f"{place} has no file named train… and {len(usable)} files that could be the set.",
            "Name the training file (and --dev, --test).",
        )
    return place.name, {"train": usable[0]}


def _known(file: Path) -> bool:
    suffixes = [suffix.lower() for suffix in file.suffixes if suffix.lower() not in COMPRESSIONS]
    return bool(suffixes) and suffixes[-1] in FORMATS


def _examples(file: Path, text_field: str | None, label_field: str | None, format: str | None) -> Examples:
    source = find_source(file, format)
    records = list(read_records(source, text_field=text_field, label_field=label_field))
    if not records:
        raise UserError(f"{file} holds no examples.", "Give a file with texts and labels.")
    return Examples([record.text for record in records], [record.label or "" for record in records], str(file))


def _classes(train: Examples) -> tuple[str, ...]:
    counts = Counter(train.labels)
    if len(counts) == 1:
        raise UserError(
            f"All {len(train):,} examples of {train.source} have the label {train.labels[0]!r}.",
            "A classifier needs examples of at least two classes.",
        )
    if len(counts) > _MOST_CLASSES or (len(counts) > 20 and 2 * len(counts) > len(train)):
        example = ", ".join(map(repr, list(counts)[:3]))
        raise UserError(
            f"{train.source} has {len(counts):,} different labels in {len(train):,} examples ({example}, …).",
            "That is no label: choose another with --label-field.",
        )
    return sorted_classes(counts)


def _stratified(labels: Sequence[str], share: float, seed: int) -> tuple[list[int], list[int]]:
    """(indices that stay, indices held out): of each class `share`, at least one where it has two."""
    draw = np.random.default_rng(seed)
    held: set[int] = set()
    for label in sorted_classes(labels):
        members = [i for i, other in enumerate(labels) if other == label]
        count = min(len(members) - 1, max(1, round(share * len(members))))
        held.update(members[i] for i in draw.permutation(len(members))[:count])
    return [i for i in range(len(labels)) if i not in held], sorted(held)
