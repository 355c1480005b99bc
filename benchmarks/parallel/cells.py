"""What is measured: the grid of cells, each of which becomes one JSON file."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from itertools import groupby, product
from typing import Any, Literal

Kind = Literal["speed", "crowd", "tokens", "time"]
LINKS: tuple[int | None, ...] = (None, 1000, 100)
"""Million bits a second of every host's link, each way; None is what the machine gives."""
MODES = (
    "ddp",
    "bf16",
    "powersgd",
    "async",
    "sampled",
    "sampled-hidden-bf16",
    "async-sampled",
    "local",
    "local-sampled",
)
QUALITY = ("ddp", "sampled", "local", "async-sampled", "async", "sampled-hidden-bf16", "local-sampled")
BYTE = ("ddp", "bf16", "hidden", "hidden-bf16", "local")


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        kind: ``speed``, the time of a step; ``crowd``, the same of workers who are at work at once, each in a group of
            its own, with the code of the mode and no bytes; ``tokens``, quality after so many tokens; ``time``, after
            so many seconds.
        model: see ``jobs``.
        mode: how the ranks train together (see ``modes``); with one worker ``ddp`` is the naive loop.
        workers: hosts, of one worker with one thread each.
        megabits: a second of every host's link.
        seed: of weights, data and sampled words.
    """

    kind: Kind
    model: str
    mode: str
    workers: int
    megabits: int | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its file."""
        if self.kind == "crowd":
            return f"{self.kind}-{self.model}-{self.mode}-{self.workers}w"
        link = "free" if self.megabits is None else f"{self.megabits}mbit"
        seed = "" if self.kind == "speed" else f"-seed{self.seed}"
        return f"{self.kind}-{self.model}-{self.mode}-{self.workers}w-{link}{seed}"

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def grid() -> list[Cell]:
    """All cells, what matters most first; those that the same processes measure stand beside each other."""
    found = [Cell("speed", "byte", "ddp", 1), *(Cell("speed", "byte", mode, 4, 100) for mode in BYTE)]
    found += [*_speed("lstm10k", 4), *_speed("lstm60k", 4)]
    found += [Cell("crowd", "byte", mode, 4) for mode in BYTE]
    found += [Cell("crowd", model, mode, 4) for model in ("lstm10k", "lstm60k") for mode in MODES]
    for seed in (0, 1):
        found += [Cell("tokens", "byte", mode, 4, 100, seed) for mode in BYTE]
        found += [Cell("tokens", "small10k", mode, 4, None, seed) for mode in QUALITY]
        found += [Cell("time", "small10k", mode, 4, 100, seed) for mode in QUALITY]
        if seed == 0:
            found += [*_speed("rnn10k", 4), *_speed("lstm10k", 2)[2:]]
    return found


def _speed(model: str, workers: int) -> list[Cell]:
    """Of one worker, then of several."""
    alone = [Cell("speed", model, mode, 1) for mode in ("ddp", "sampled")]
    return alone + [Cell("speed", model, mode, workers, link) for mode, link in product(MODES, LINKS)]


def select(patterns: list[str]) -> list[Cell]:
    """Cells whose names match one of the patterns (as of ``fnmatch``; a part of a name will do); all without any."""
    return [cell for cell in grid() if not patterns or any(fnmatchcase(cell.name, f"*{p}*") for p in patterns)]


def sessions(cells: list[Cell]) -> Iterator[list[Cell]]:
    """Cells that the same processes measure one after another: those of speed that differ in their links only."""
    for _, alike in groupby(cells, lambda cell: replace(cell, megabits=0 if cell.kind == "speed" else cell.megabits)):
        yield list(alike)
