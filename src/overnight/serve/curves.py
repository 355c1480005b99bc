"""The training curves of a run, thinned to what a screen shows."""

from pathlib import Path
from typing import Any

from overnight.report.curves import smooth, thin
from overnight.report.read import read_run

POINTS = 600
"""Of a curve, about."""


def curves_of(run: Path) -> dict[str, Any]:
    """Training and held-out bits per byte and the rate of a run folder, each over steps, bytes and seconds.

    The run is read anew at every call, so one that is still going shows its latest points.

    Raises:
        UserError: if the folder cannot be read.
    """
    record = read_run(run)
    raw = [metric.bits_per_byte for metric in record.metrics]
    smoothed = smooth(raw, max(2, len(raw) // 60)) if len(raw) - raw.count(None) >= 24 else raw
    kept = sorted({*thin(raw, POINTS // 2), *thin(smoothed, POINTS // 2)})
    training = {
        "steps": [record.metrics[index].step for index in kept],
        "bytes": [record.metrics[index].tokens for index in kept],
        "seconds": [record.metrics[index].seconds for index in kept],
        "bits_per_byte": [raw[index] for index in kept],
        "smoothed": [smoothed[index] for index in kept],
        "lr": [record.metrics[index].lr for index in kept],
    }
    held_out = {
        "steps": [evaluation.step for evaluation in record.evaluations],
        "bytes": [evaluation.tokens for evaluation in record.evaluations],
        "seconds": [evaluation.seconds for evaluation in record.evaluations],
        "bits_per_byte": [evaluation.bits_per_byte for evaluation in record.evaluations],
    }
    baselines = [] if record.summary is None else record.summary.baselines
    return {
        "training": training,
        "held_out": held_out,
        "baselines": [{"name": one.name, "bits_per_byte": one.score} for one in baselines],
    }
