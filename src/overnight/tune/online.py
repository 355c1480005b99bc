"""The baseline at another batch with DATE at the wheel: rate, length and batch follow the noise scale as it trains."""

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

from overnight.scaling import DATE, Hyperparameters
from overnight.train.run import Run
from overnight.tune.baseline import Baseline, scaled_run

CUTS = (16, 8, 4, 2)
FIXED = {
    "optimizer.betas": "betas",
    "optimizer.eps": "eps",
    "optimizer.weight_decay": "weight_decay",
    "param_groups.weight_decay": "weight_decay",
    "max_norm": "max_norm",
    "schedule.warmup_samples": "warmup_samples",
    "epochs": "total_samples",
    "steps": "total_samples",
    "minutes": "total_samples",
}
"""Settings that a user may fix, and their names there."""


def online_run(baseline: Baseline, batch: int, largest: int, held: Sequence[str]) -> Run:
    """A run that begins with the baseline's settings at a batch; ``overnight.scaling.DATE`` takes it from there.

    Args:
        baseline: tuned at its batch.
        batch: the new one.
        largest: samples of a micro-batch, at most.
        held: names of settings that stay as they are.
    """
    tuned = replace(baseline.tuned, total_samples=None)
    known = {item.name: getattr(tuned, item.name) for item in fields(Hyperparameters)}
    given: dict[str, Any] = {"baseline": partial(Hyperparameters, **{k: v for k, v in known.items() if v is not None})}
    fixed = tuple(sorted({FIXED[name] for name in held if name in FIXED}))
    adapt = partial(DATE, **(given | ({"fixed": fixed} if fixed else {})))
    at_start = replace(baseline.tuned, global_batch_size=batch)
    note = (
        f"rate, length and batch follow the noise scale, from lr {tuned.lr:g} at batch {tuned.global_batch_size} (DATE)"
    )
    # no smaller than the baseline's batch, whose noise is known to be bearable
    cuts = [n for n in CUTS if batch % n == 0 and tuned.global_batch_size <= batch // n <= largest]
    micro = baseline.run.micro_batch_size or (batch // cuts[0] if cuts else batch // 2 if batch % 2 == 0 else None)
    return replace(scaled_run(baseline, at_start, micro, note), adapt=adapt)
