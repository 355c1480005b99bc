"""How often each word stands in a text, exactly, with a bounded number of words in memory."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import groupby
from operator import itemgetter
from pathlib import Path

MAX_TYPES = 4_000_000
"""Different words held in memory, about 150 bytes each; One Billion Word has 2.4 million."""


class WordCounter:
    """Counts words; where more than ``max_types`` are different, sorted runs go to disk and are merged at the end.

    Nothing is dropped, so the counts do not depend on the bound.

    Args:
        folder: for the runs; it must exist, and they are left there.
        max_types: bound of the words in memory.

    >>> counter = WordCounter(Path("."))
    >>> counter.add([b"a", b"b", b"a"])
    >>> sorted(counter.items())
    [(b'a', 2), (b'b', 1)]
    """

    def __init__(self, folder: Path, max_types: int = MAX_TYPES) -> None:
        self._folder, self._max_types = folder, max_types
        self._held: Counter[bytes] = Counter()
        self._runs: list[Path] = []

    def add(self, words: Iterable[bytes]) -> None:
        """Count words, at most a few million a call."""
        self._held.update(words)
        if len(self._held) > self._max_types:
            self._spill()

    def items(self) -> Iterator[tuple[bytes, int]]:
        """Every word, once, and its count; in no particular order."""
        if not self._runs:
            yield from self._held.items()
            return
        self._spill()
        with ExitStack() as stack:
            runs = [map(_parsed, stack.enter_context(path.open("rb"))) for path in self._runs]
            for word, found in groupby(heapq.merge(*runs, key=itemgetter(0)), key=itemgetter(0)):
                yield word, sum(count for _, count in found)

    def _spill(self) -> None:
        path = self._folder / f"counts-{len(self._runs)}.tsv"
        with path.open("wb") as file:
            for word in sorted(self._held):
                file.write(b"%d\t%s\n" % (self._held[word], word))
        self._runs.append(path)
        self._held.clear()


def _parsed(line: bytes) -> tuple[bytes, int]:
    count, word = line[:-1].split(b"\t", 1)
    return word, int(count)
