"""From the noise scale that is followed on line to the gain, and to the factor on the baseline's rate."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from overnight.scaling.gain import gain
from overnight.scaling.noise_reading import NoiseReading

SMALLEST_CHANGE = 1.1
"""Of the gain; below it nothing is changed."""
FASTEST_RISE = 1.25
"""Of the rate, from one reading to the next. It falls at once."""
NEARLY_K = 0.8
"""Share of k that the gain is known to reach where only the lower end of the noise scale is known."""
MANY = 1000.0
"""Batches; a noise scale above that is as good as infinite."""


@dataclass
class Following:
    """The noise scale that was last believed, and what follows from it.

    Attributes:
        base_batch: B₀, in samples.
        adaptive: the optimizer normalises its updates: √r, else r.
        noise_scale: Bn, in samples; infinite until it is measured.
        rate: the factor on the baseline's rate, on its way to what the gain says.
        backoff: 1, halved by each rollback; the gain is multiplied by it.
    """

    base_batch: int
    adaptive: bool
    noise_scale: float = math.inf
    rate: float = 1.0
    backoff: float = 1.0

    @property
    def measured(self) -> bool:
        """Whether a reading was believed so far."""
        return math.isfinite(self.noise_scale)

    def gain(self, batch: float) -> float:
        """r of a batch, 1 to k, before ``backoff``; k as long as nothing is measured."""
        return gain(self.noise_scale, self.base_batch, batch / self.base_batch)

    def target(self, batch: float) -> float:
        """The factor on the rate that a batch deserves.

        SGD: r; √k, LEGW's, unless measured. Adam's family: √r, with the batch counted up to the noise scale only: past
        it their best rate rises no more (the surge of Li et al. 2024, arXiv 2405.14578).
        """
        if not self.adaptive:
            return self.backoff * (self.gain(batch) if self.measured else math.sqrt(batch / self.base_batch))
        counted = min(batch, max(self.noise_scale, float(self.base_batch)))
        return math.sqrt(self.backoff * self.gain(counted))

    def believe(self, reading: NoiseReading, batch: float) -> float | None:
        """The noise scale that a reading gives, or None if it says too little or nothing new.

        Where the batch is far below the noise scale the upper end of its interval is infinite. If by the lower end the
        gain is nearly k already, the estimate is believed all the same: it is wrong in the gain by a quarter at most.
        """
        k = batch / self.base_batch
        if reading.usable:
            found = reading.noise_scale
        elif math.isfinite(reading.low) and reading.low > 0 and gain(reading.low, self.base_batch, k) >= NEARLY_K * k:
            found = min(reading.noise_scale, MANY * batch)
        else:
            return None
        new = gain(found, self.base_batch, k)
        if self.measured and max(new / self.gain(batch), self.gain(batch) / new) < SMALLEST_CHANGE:
            return None
        return found

    def approach(self, batch: float) -> bool:
        """Take the rate nearer to its target; whether it has changed."""
        old, target = self.rate, self.target(batch)
        self.rate = min(target, self.rate * FASTEST_RISE)
        return self.rate != old

    def back_off(self, backoff: float) -> None:
        """Multiply the gain by another ``backoff`` from now on, and the rate at once."""
        fell = backoff / self.backoff
        self.backoff = backoff
        self.rate *= math.sqrt(fell) if self.adaptive else fell

    def state_dict(self) -> dict[str, Any]:
        """Plain data; a noise scale that is not measured is None."""
        noise_scale = self.noise_scale if self.measured else None
        return {"noise_scale": noise_scale, "rate": self.rate, "backoff": self.backoff}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from it."""
        noise_scale = state["noise_scale"]
        self.noise_scale = math.inf if noise_scale is None else noise_scale
        self.rate, self.backoff = state["rate"], state["backoff"]
