"""Tuning with a declared budget, at the base batch and for the oracle, frozen in a JSON file."""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.large_batch.applications import Application
from overnight.errors import UserError
from overnight.train.folder import write_json

FORMAT = "overnight-frozen/1"


@dataclass(frozen=True)
class Trial:
    """One rate.

    Attributes:
        lr: peak rate.
        score: on held-out data, the higher the better; None if it did not train.
    """

    lr: float
    score: float | None


class Frozen:
    """What was tuned of an application, in ``FOLDER/frozen.json``; what is written there is not tuned again.

    Args:
        app: application.
        folder: of its cells.
    """

    def __init__(self, app: Application, folder: Path) -> None:
        self.app, self.path = app, folder / "frozen.json"
        self.data: dict[str, Any] = {"format": FORMAT, "application": app.name, "base": {}, "oracle": {}}
        if self.path.exists():
            self.data = json.loads(self.path.read_text(encoding="utf-8"))
            if self.data.get("format") != FORMAT or self.data.get("application") != app.name:
                raise UserError(f"{self.path} is not of {app.name}.", "Choose another folder.")

    def rate(self, optimizer: str) -> float:
        """The rate at the base batch: tuned here, or what the application begins with.

        Raises:
            UserError: for an optimizer without one.
        """
        found = self.data["base"].get(optimizer)
        if found is not None:
            return float(found["lr"])
        if optimizer not in self.app.rates:
            raise UserError(f"{self.app.name} has no rate for {optimizer}.", f"Tune: --tune {optimizer}.")
        return self.app.rates[optimizer]

    def oracle(self, batch: int) -> tuple[str, float]:
        """Optimizer and rate that were best at a batch.

        Raises:
            UserError: if that was not tuned.
        """
        found = self.data["oracle"].get(str(batch))
        if not found:
            raise UserError(f"The oracle was not tuned at batch {batch}.", "Leave the tuning to the arm oracle.")
        name = max(found, key=lambda one: -math.inf if found[one]["score"] is None else found[one]["score"])
        return name, float(found[name]["lr"])

    def tune(
        self, optimizer: str, batch: int, start: float, trials: int, epochs: float, train: Callable[[float], Trial]
    ) -> None:
        """Tune a rate, and write it down; a search that was interrupted begins again, with trials that are kept.

        Args:
            optimizer: whose rate.
            batch: where; another than the base batch is the oracle's.
            start: first rate.
            trials: at most so many.
            epochs: of a trial, for the record.
            train: rate → trial.
        """
        known = self.data["base"] if batch == self.app.batch else self.data["oracle"].setdefault(str(batch), {})
        if optimizer in known:
            return
        found = climb(train, start, trials)
        best = max(found, key=lambda trial: -math.inf if trial.score is None else trial.score)
        known[optimizer] = {
            "lr": best.lr,
            "score": best.score,
            "budget": {"trials": trials, "epochs": epochs},
            "trials": [{"lr": trial.lr, "score": trial.score} for trial in found],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.data)


def climb(train: Callable[[float], Trial], start: float, trials: int, factor: float = 2.0) -> list[Trial]:
    """Rates from a first one, doubled as long as that is better; if the first doubling is not, halved.

    >>> [trial.lr for trial in climb(lambda lr: Trial(lr, -abs(lr - 4.0)), 1.0, 6)]
    [1.0, 2.0, 4.0, 8.0]
    >>> [trial.lr for trial in climb(lambda lr: Trial(lr, -abs(lr - 0.25)), 1.0, 6)]
    [1.0, 2.0, 0.5, 0.25, 0.125]
    """
    done = [train(start)]
    for step in (factor, 1.0 / factor):
        lr, best = start, done[0]
        while len(done) < trials:
            lr *= step
            done.append(train(lr))
            if not _better(done[-1], best):
                break
            best = done[-1]
        if best is not done[0]:
            break
    return done


def _better(one: Trial, other: Trial) -> bool:
    return one.score is not None and (other.score is None or one.score > other.score)
