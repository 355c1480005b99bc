"""What a batch will cost: epochs by the critical batch, steps, hours on one device and on several over a link."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from overnight.scaling.convergence import epochs_ratio
from overnight.scaling.links import Link
from overnight.scaling.step_cells import StepCell
from overnight.scaling.step_time import StepTime
from overnight.scaling.throughput import Throughput

FLOAT_BYTES, BUCKET_BYTES = 4, 25 * 2**20
WORTH = 0.9
"""A batch twice as large is worth it while it leaves at most so much of the time."""


@dataclass(frozen=True)
class Costs:
    """What is known of a baseline's cost.

    Attributes:
        batch: of the baseline, in samples.
        total_samples: of its run; None if unknown.
        critical_batch: in samples; None if unknown.
        curve: samples a second on one device; None if unknown.
        parameters: of the model, exchanged in each step as float32.
        devices: N, that share a batch.
        link: between them, each with its own; None for one device.
    """

    batch: int
    total_samples: float | None
    critical_batch: float | None
    curve: Throughput | None
    parameters: int = 0
    devices: int = 1
    link: Link | None = None

    def samples_ratio(self, batch: int) -> float | None:
        """Samples at this batch over the baseline's for the same quality: E(k·B)/E(B)."""
        if self.critical_batch is None:
            return None
        return epochs_ratio(self.critical_batch, self.batch, batch / self.batch)

    def step_seconds(self, batch: int) -> float | None:
        """On one device, in micro-batches that were seen to fit."""
        return None if self.curve is None else self.curve.accumulated(batch)[1]

    def shared_step_seconds(self, batch: int) -> tuple[float, float] | None:
        """On the N devices: if all of the exchange is hidden that can be, and if nothing is. Ring all-reduce."""
        if self.curve is None or self.devices < 2 or batch % self.devices:
            return None
        computing = self.curve.accumulated(batch // self.devices)[1]
        size = float(FLOAT_BYTES * self.parameters)
        messages = max(1.0, math.ceil(size / BUCKET_BYTES))
        two = StepCell("ddp", workers=2, bits_per_second=None, bytes_per_step=size, compute_ms=1e3 * computing)
        cell = two.at(self.devices, self.link)
        found = StepTime().predict(StepCell.from_json(cell.to_json() | {"messages": messages}))
        return found.low_ms / 1e3, found.high_ms / 1e3

    def hours(self, samples: float | None, batch: int, seconds: float | None) -> float | None:
        """Of so many samples."""
        return None if samples is None or seconds is None else samples / batch * seconds / 3600.0

    def at(self, batch: int) -> dict[str, Any]:
        """One rung: what the baseline's quality costs at this batch. None for what cannot be told."""
        ratio = self.samples_ratio(batch)
        needed = None if ratio is None or self.total_samples is None else ratio * self.total_samples
        shared = self.shared_step_seconds(batch)
        return {
            "batch": batch,
            "samples_ratio": ratio,
            "steps": None if needed is None else math.ceil(needed / batch),
            "hours": self.hours(needed, batch, self.step_seconds(batch)),
            "shared_hours": None if shared is None else [self.hours(needed, batch, each) for each in shared],
        }


def ladder(costs: Costs, most: int) -> list[dict[str, Any]]:
    """Rungs at the baseline's batch and its doublings up to ``most``.

    >>> [rung["batch"] for rung in ladder(Costs(32, 1e6, 500.0, None), 128)]
    [32, 64, 128]
    """
    batches = [costs.batch]
    while 2 * batches[-1] <= most:
        batches.append(2 * batches[-1])
    return [costs.at(batch) for batch in batches]


def returns_end(rungs: list[dict[str, Any]], key: str) -> int | None:
    """The batch from which a batch twice as large saves less than a tenth; None if that is not within the rungs.

    >>> found = ladder(Costs(1, 1e6, 8.0, None), 256)
    >>> returns_end(found, "steps")
    64
    """
    values = [(rung["batch"], _slowest(rung[key])) for rung in rungs]
    for (batch, now), (_, twice) in pairwise(values):
        if now is not None and twice is not None and twice > WORTH * now:
            return int(batch)
    return None


def _slowest(value: Any) -> float | None:
    return max(value) if isinstance(value, list) and None not in value else None if isinstance(value, list) else value
