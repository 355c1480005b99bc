"""What a probe found, as plain data: one JSON file, docs/scale.md."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from overnight.errors import UserError
from overnight.scaling.noise_reading import NoiseReading
from overnight.scaling.throughput import Point, Throughput

FORMAT = "overnight-probe/1"


@dataclass(frozen=True)
class Noise:
    """A noise scale in samples, with the ends of its 95 % interval; infinite where nothing bounds it."""

    noise_scale: float
    low: float
    high: float
    usable: bool
    layers: Mapping[str, "Noise"] = field(default_factory=dict)

    @classmethod
    def of(cls, reading: NoiseReading) -> "Noise":
        """From a measurement."""
        layers = {name: cls.of(layer) for name, layer in reading.layers.items()}
        scale = reading.noise_scale if math.isfinite(reading.noise_scale) else math.inf
        return cls(scale, reading.low, reading.high, reading.usable, layers)


@dataclass(frozen=True)
class Probe:
    """What a short training said of a baseline.

    Attributes:
        recipe: its name.
        global_batch_size, micro_batch_size, world_size: of the training.
        device, precision: that it ran on, and in.
        step: of the run at which the measurement ended.
        measured_steps: over which it went.
        loss: mean nats a target of the first and the last tenth of the steps.
        parameters: of the model.
        samples_per_epoch: of the data.
        targets_per_sample: what one sample's loss sums over.
        noise: raw.
        preconditioned: of the update of an Adam-like optimizer; None for others.
        relative_step: ‖Δw‖ / ‖w‖ of all weights; ``layers`` of each; ``matrices`` are those that a trust ratio adapts.
        clip: share of clipped steps, and the mean factor on the gradient; None if nothing is clipped.
        throughput: samples a second as a function of batch, on one device; None if it was left out.
        critical_batch: by branched runs, with its interval; None if it was left out.
        optimizer, model: class of the one, and the other as a run.json has it; None if nobody said.
    """

    recipe: str
    global_batch_size: int
    micro_batch_size: int
    world_size: int
    device: str
    precision: str
    step: int
    measured_steps: int
    loss: tuple[float, float]
    parameters: int
    samples_per_epoch: float
    targets_per_sample: float
    noise: Noise
    preconditioned: Noise | None
    relative_step: float
    layers: Mapping[str, float]
    matrices: tuple[str, ...]
    clip: tuple[float, float] | None
    throughput: Throughput | None = None
    critical_batch: Noise | None = None
    optimizer: str | None = None
    model: Mapping[str, Any] | None = None

    def scale(self) -> tuple[Noise, str]:
        """The noise that rules should take, and what it is: by branches, else preconditioned, else raw.

        Branches whose interval is too wide to be used do not stand in the way of a noise scale that can be.
        """
        measured = self.noise, "noise scale"
        if self.preconditioned is not None:
            measured = self.preconditioned, "preconditioned noise scale"
        if self.critical_batch is None or (measured[0].usable and not self.critical_batch.usable):
            return measured
        return self.critical_batch, "critical batch by branched runs"

    def to_json(self) -> dict[str, Any]:
        """Plain data; infinity is null."""
        found: dict[str, Any] = {"format": FORMAT}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Noise):
                value = _noise_json(value)
            elif isinstance(value, Throughput):
                value = _throughput_json(value)
            found[item.name] = dict(value) if isinstance(value, Mapping) else value
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Probe":
        """What ``to_json`` wrote."""
        values = {item.name: data[item.name] for item in fields(cls)}
        values["noise"] = _noise(values["noise"])
        for name in ("preconditioned", "critical_batch"):
            values[name] = None if values[name] is None else _noise(values[name])
        if values["throughput"] is not None:
            line = values["throughput"]
            points = tuple(Point(**point) for point in line["points"])
            values["throughput"] = Throughput(
                points, line["stopped_by"], line["overhead_seconds"], line["seconds_per_sample"]
            )
        for name in ("loss", "clip", "matrices"):
            values[name] = None if values[name] is None else tuple(values[name])
        for name in ("relative_step", "samples_per_epoch", "targets_per_sample"):
            values[name] = float(values[name])
        values["layers"] = {str(name): float(value) for name, value in values["layers"].items()}
        values["matrices"] = tuple(name for name in values["matrices"] or () if name in values["layers"])
        return cls(**values)


def read_probe(path: Path) -> Probe:
    """A probe's file.

    Raises:
        UserError: if it cannot be read, or is none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read: {error}.", "Make it with: overnight probe RECIPE --out FILE."
        ) from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UserError(f"{path} is no probe ({FORMAT}).", "Make one with: overnight probe RECIPE --out FILE.")
    try:
        return Probe.from_json(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"The probe {path} is not whole: {error}.", "Make it again.") from None


def _noise_json(noise: Noise) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: None if math.isinf(value) else value
        for name, value in (("noise_scale", noise.noise_scale), ("low", noise.low), ("high", noise.high))
    }
    found["usable"] = noise.usable
    return found | ({"layers": {name: _noise_json(one) for name, one in noise.layers.items()}} if noise.layers else {})


def _noise(data: Mapping[str, Any]) -> Noise:
    scale, low, high = (
        math.inf if data[name] is None else float(data[name]) for name in ("noise_scale", "low", "high")
    )
    layers = {name: _noise(one) for name, one in data.get("layers", {}).items()}
    return Noise(scale, low, high, bool(data["usable"]), layers)


def _throughput_json(curve: Throughput) -> dict[str, Any]:
    return {
        "points": [
            {"batch": point.batch, "seconds": point.seconds, "memory_bytes": point.memory_bytes}
            for point in curve.points
        ],
        "stopped_by": curve.stopped_by,
        "overhead_seconds": curve.overhead_seconds,
        "seconds_per_sample": curve.seconds_per_sample,
    }
