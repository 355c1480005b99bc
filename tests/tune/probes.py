"""Probes that nobody measured, and runs to plan."""

import math
from typing import Any

from overnight.scaling.throughput import Point, Throughput
from overnight.tune.record import Noise, Probe

CURVE = Throughput(
    (Point(4, 0.010, 10**6), Point(8, 0.012, 2 * 10**6), Point(16, 0.016, 4 * 10**6)), "memory", 0.008, 0.0005
)
"""t(B) = 8 ms + B / 2 ms, up to 16 samples."""


def noise(scale: float = 20.0, low: float = 12.0, high: float = 40.0) -> Noise:
    return Noise(scale, low, high, low > 0 and high <= 4 * low)


def probed(**changes: Any) -> Probe:
    """Of ``tiny``: byte-lm at batch 4."""
    settings: dict[str, Any] = {
        "recipe": "byte-lm", "global_batch_size": 4, "micro_batch_size": 1, "world_size": 1, "device": "a device",
        "precision": "fp32", "step": 64, "measured_steps": 32, "loss": (5.0, 3.0), "parameters": 1_000_000,
        "samples_per_epoch": 1000.0, "targets_per_sample": 8.0, "noise": noise(10.0, 6.0, 20.0),
        "preconditioned": noise(), "relative_step": 0.01, "layers": {"a": 0.01, "b": 0.02, "bias": 3.0},
        "matrices": ("a", "b"), "clip": (0.25, 0.9), "throughput": CURVE, "critical_batch": None,
    }  # fmt: skip
    return Probe(**{**settings, **changes})


ENDLESS = noise(math.inf, 30.0, math.inf)
