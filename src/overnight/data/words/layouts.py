"""Which files of a folder are the train, valid and test splits, where their names say so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from overnight.data.ingest.sources import COMPRESSIONS, FORMATS, STDIN, Source, find_sources
from overnight.errors import UserError

IDS_ENDING = ".ids"
_TRAINING = "training-monolingual.tokenized.shuffled"
_HELDOUT = "heldout-monolingual.tokenized.shuffled"
_BILLION_VOCABULARY = "1b_word_vocab.txt"
_NAMES = {"train": ("train",), "valid": ("valid", "validation", "val", "dev"), "test": ("test",)}


@dataclass
class Layout:
    """Files by split; those under "" are split by hash, or all train where a split has files of its own."""

    files: dict[str, list[str]] = field(default_factory=dict)
    vocab_file: str | None = None
    found: str = ""


def read_layout(sources: Sequence[str]) -> Layout:
    """The layout of a single folder that has one; anything else is files under "".

    One Billion Word: ``training-monolingual.tokenized.shuffled`` is train; of ``heldout-…``, shard 00000 is test, the
    customary one, and 00001 valid. Otherwise a folder with one file for train and one each for valid or test, by the
    word in its name, such as ``ptb.train.txt`` or ``wsj.test.ids.gz``.
    """
    if len(sources) == 1 and Path(sources[0]).is_dir():
        folder = Path(sources[0])
        return _billion(folder) or _named(folder) or Layout({"": list(sources)})
    return Layout({"": list(sources)})


def _billion(folder: Path) -> Layout | None:
    if not (folder / _TRAINING).is_dir():
        return None
    train = sorted(str(path) for path in (folder / _TRAINING).glob("news.en-*"))
    # not news.en-00000-of-00100, which is there too: the whole of what the held-out pieces were cut from
    patterns = {split: f"news.en.heldout-{n:05d}-of-*" for n, split in enumerate(("test", "valid"))}
    heldout = {split: sorted((folder / _HELDOUT).glob(pattern)) for split, pattern in patterns.items()}
    files = {"train": train, **{split: list(map(str, paths)) for split, paths in heldout.items() if paths}}
    vocabulary = folder / _BILLION_VOCABULARY
    return Layout(files, str(vocabulary) if vocabulary.is_file() else None, "One Billion Word")


def _named(folder: Path) -> Layout | None:
    found: dict[str, list[str]] = {split: [] for split in _NAMES}
    for path in sorted(folder.iterdir()):
        parts = set(re.split(r"[._-]", path.name.lower()))
        splits = [split for split, names in _NAMES.items() if parts.intersection(names)]
        if path.is_file() and len(splits) == 1 and not path.name.startswith("."):
            found[splits[0]].append(str(path))
    files = {split: paths for split, paths in found.items() if paths}
    if "train" not in files or len(files) < 2 or any(len(paths) > 1 for paths in files.values()):
        return None
    return Layout(files, None, "files named by split")


def all_ids(paths: Sequence[str]) -> bool:
    """Whether the names of all files say that they hold ids."""
    return bool(paths) and all(_stem(path).endswith(IDS_ENDING) for path in paths)


def word_sources(files: dict[str, list[str]], format: str | None, exclude: Path) -> list[Source]:
    """The files in reading order; one whose name does not tell a format is text.

    Raises:
        UserError: nothing there, a source that can be read only once, or one named for two splits.
    """
    found: dict[str, Source] = {}
    for split in ("valid", "test", "train", ""):
        for path in files.get(split, []):
            if path == STDIN:
                raise UserError(
                    "Standard input can be read only once; words are read twice.", "Save it to a file first."
                )
            known = Path(path).is_dir() or Path(_stem(path)).suffix in FORMATS or "*" in path or not Path(path).exists()
            for source in find_sources([path], format or (None if known else "txt"), split, exclude):
                real = str(Path(source.path).resolve())
                other = found.setdefault(real, source)
                if other is not source and split:
                    raise UserError(f"{source.path} is named for two splits.", "Name it for one of them.")
    if not found:
        raise UserError("No source was given.", "Name files, folders or globs.")
    return list(found.values())


def _stem(path: str) -> str:
    name = path.lower()
    return next((name.removesuffix(ending) for ending in COMPRESSIONS if name.endswith(ending)), name)
