"""What is measured: the grid of cells, each of which becomes one JSON file."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from itertools import groupby, product
from typing import Any, Literal

Kind = Literal["speed", "tokens", "time"]
LINKS: tuple[int | None, ...] = (None, 1000, 100)
"""Million bits a second of every host's link, each way; None is what the machine gives."""
MODES = (
    "ddp",
    "bf16",
    "powersgd",
    "async",
    "sampled",
    "sampled-hidden",
    "async-sampled",
    "local",
    "local-sampled",
)
QUALITY = ("ddp", "async", "sampled", "sampled-hidden", "async-sampled", "local", "local-sampled")
BYTE = ("ddp", "bf16", "hidden", "hidden-bf16", "local")


@dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
        kind: ``speed``, the time of a step; ``tokens``, quality after so many tokens; ``time``, after so many seconds.
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
        link = "free" if self.megabits is None else f"{self.megabits}mbit"
        seed = "" if self.kind == "speed" else f"-seed{self.seed}"
        return f"{self.kind}-{self.model}-{self.mode}-{self.workers}w-{link}{seed}"

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def grid() -> list[Cell]:
    """All cells, those that are measured by the same processes beside each other."""
    found: list[Cell] = []
    for model, worker_counts in (("lstm10k", (2, 4)), ("rnn10k", (4,)), ("lstm60k", (4,))):
        found += [Cell("speed", model, mode, 1) for mode in ("ddp", "sampled")]
        found += [
            Cell("speed", model, mode, workers, link) for workers, mode, link in product(worker_counts, MODES, LINKS)
        ]
    found += [Cell("speed", "byte", "ddp", 1), *(Cell("speed", "byte", mode, 4, 100) for mode in BYTE)]
    found += [Cell("tokens", "byte", mode, 4, 100, seed) for seed, mode in product((0, 1), BYTE)]
    found += [Cell("tokens", "lstm10k", mode, 4, None, seed) for seed, mode in product((0, 1), QUALITY)]
    found += [Cell("time", "lstm10k", mode, 4, 100, seed) for seed, mode in product((0, 1), QUALITY)]
    return found


def select(patterns: list[str]) -> list[Cell]:
    """Cells whose names match one of the patterns (as of ``fnmatch``; a part of a name will do); all without any."""
    return [cell for cell in grid() if not patterns or any(fnmatchcase(cell.name, f"*{p}*") for p in patterns)]


def sessions(cells: list[Cell]) -> Iterator[list[Cell]]:
    """Cells that the same processes measure one after another: those of speed that differ in their links only."""
    for _, alike in groupby(cells, lambda cell: replace(cell, megabits=0 if cell.kind == "speed" else cell.megabits)):
        yield list(alike)
