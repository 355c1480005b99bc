"""How long a run goes: epochs, steps or minutes, and how far it has come."""

import math
from collections.abc import Callable

from overnight.schedule.curves import Progress
from overnight.train.run import Run


class Budget:
    """Turns (step, seconds) into a fraction of the run, and into the schedule's progress.

    With epochs or steps the length in samples is known. With minutes it is estimated from the clock whenever
    ``observe`` is called: total = samples so far / fraction of the time used.

    Args:
        run: exactly one of its ``epochs``, ``steps`` and ``minutes`` is given.
        steps_per_epoch: of the data; not a whole number where a batch may hold the end of one epoch and the start of
            the next.
    """

    def __init__(self, run: Run, steps_per_epoch: float) -> None:
        self.batch = run.global_batch_size
        self._followed: Callable[[], float] | None = None
        self.seconds = None if run.minutes is None else run.minutes * 60.0
        self.steps: int | None = run.steps
        if run.epochs is not None:
            # a product of floats may lie a rounding above the whole number that it means
            self.steps = max(1, math.ceil(round(run.epochs * steps_per_epoch, 6)))
        self.total = math.inf if self.steps is None else float(self.steps * self.batch)

    def follow(self, fraction: Callable[[], float]) -> None:
        """Let somebody else say how much is done of a run that is not measured in minutes."""
        self._followed = fraction if self.seconds is None else None

    def observe(self, samples: int, seconds: float) -> None:
        """Take a reading of the clock (the same on every rank)."""
        if self.seconds is not None and seconds > 0 and samples > 0:
            self.total = samples * max(1.0, self.seconds / seconds)

    def fraction(self, step: int, seconds: float) -> float:
        """How much of the run is done, 0 to 1."""
        if self._followed is not None:
            return min(1.0, self._followed())
        done = seconds / self.seconds if self.seconds is not None else step / (self.steps or 1)
        return min(1.0, done)

    def progress(self, samples: int) -> Progress:
        """What the schedule sees before a step."""
        return Progress(samples, self.batch, self.total)
