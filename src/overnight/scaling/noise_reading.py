"""What a measurement of the noise scale says: the ratio, its interval, and the same for each layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from overnight.scaling.intervals import Array, ratio_interval


@dataclass(frozen=True)
class NoiseReading:
    """A noise scale with its 95 % interval; of all parameters, or of one layer.

    Attributes:
        noise_scale: tr(Σ) / |G|² in samples: the batch whose gradient has as much noise as signal.
        low, high: ends of the interval; from 0 to infinity where nothing can be said yet.
        gradient_square: |G|², of the gradient without noise; noise may take its estimate below 0.
        trace: tr(Σ), the variance of one sample's gradient.
        steps: that were measured.
        layers: the same for each layer, by name; empty in a layer's own reading.
    """

    noise_scale: float
    low: float
    high: float
    gradient_square: float
    trace: float
    steps: int
    layers: Mapping[str, "NoiseReading"]

    @property
    def usable(self) -> bool:
        """The interval spans no more than a factor of 4."""
        return self.low > 0.0 and self.high <= 4.0 * self.low < float("inf")


def noise_reading(names: Sequence[str], sums: Array, counts: Array, batch: int) -> NoiseReading:
    """From sums over blocks of steps.

    Args:
        names: of the layers.
        sums: of tr(Σ) and |G|², [blocks, 2, layers].
        counts: steps in each block, [blocks].
        batch: samples, a unit in which the ratio is not far from 1.
    """
    layers = {name: _reading(sums[..., i], counts, batch, {}) for i, name in enumerate(names)}
    return _reading(sums.sum(-1), counts, batch, layers)


def _reading(sums: Array, counts: Array, batch: int, layers: Mapping[str, NoiseReading]) -> NoiseReading:
    steps = int(counts.sum())
    if steps == 0:
        nothing = float("nan")
        return NoiseReading(nothing, 0.0, float("inf"), nothing, nothing, 0, layers)
    value, low, high = (float(end) * batch for end in ratio_interval(sums[:, 0] / batch, sums[:, 1]))
    trace, square = np.sum(sums, 0) / steps
    return NoiseReading(value, low, high, float(square), float(trace), steps, layers)
