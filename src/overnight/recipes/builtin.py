"""A first model on text that every machine has: the source of Python's own standard library."""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from overnight.recipes.byte_lm import byte_lm

if TYPE_CHECKING:
    from overnight.train.run import Run


def builtin(
    minutes: float | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    preset: str = "laptop",
    seed: int = 0,
) -> "Run":
    """Train a small byte-level language model on the source of Python's own standard library: nothing to download.

    Three minutes on two CPU cores; it ends with a sample, held-out bits per byte and a report. docs/results.md says
    what it reaches.

    Args:
        minutes: budget in minutes of wall-clock time (3, if neither is given).
        steps: budget in updates instead.
        batch_size: lanes of one update.
        preset: size of the model (see byte-lm).
        seed: of weights and data.
    """
    from overnight.data.builtin import builtin_corpus

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "overnight"
    corpus = builtin_corpus(cache)
    run = byte_lm(corpus, preset=preset, batch_size=batch_size, minutes=minutes, steps=steps, evaluations=6, seed=seed)
    return replace(run, recipe="builtin")
