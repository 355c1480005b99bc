"""The baseline at another batch with DATE at the wheel: rate, length and batch follow the noise scale as it trains."""

from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

from overnight.scaling import DATE, Hyperparameters
from overnight.train.run import Run
from overnight.tune.baseline import Baseline, scaled_run

CUTS = (16, 8, 4, 2)
FIXED = {
    "optimizer.lr": "lr",
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
    at_start = replace(baseline.tuned, global_batch_size=batch)
    run = scaled_run(baseline, at_start, baseline.run.micro_batch_size, None)
    fixed = {FIXED[name] for name in held if name in FIXED}
    return with_date(run, replace(baseline.tuned, total_samples=None), fixed=fixed, largest=largest)


def with_date(run: Run, tuned: Hyperparameters, *, fixed: Collection[str] = (), largest: int | None = None) -> Run:
    """A run that begins with the baseline's settings, with DATE around it.

    Micro-batches are the run's, or no smaller than the baseline's batch, at most 16 a step.

    Args:
        run: at the new batch.
        tuned: the baseline.
        fixed: settings that stay as they are.
        largest: samples of a micro-batch, at most; None for no bound.
    """
    known = {item.name: getattr(tuned, item.name) for item in fields(tuned)}
    settings: dict[str, Any] = {
        "baseline": partial(Hyperparameters, **{name: value for name, value in known.items() if value is not None})
    }
    if fixed:
        settings["fixed"] = tuple(sorted(fixed))
    followed = {"lr": "rate", "total_samples": "length (at most twice the budget)"}
    held = {*fixed, "total_samples"} if run.minutes is not None else {*fixed}
    goes = ", ".join(word for name, word in followed.items() if name not in held)
    note = (
        f"{goes + ' and batch follow' if goes else 'batch follows'} the noise scale, "
        f"from lr {tuned.lr:g} at batch {tuned.global_batch_size} (DATE)"
        f"{'; as given: ' + ', '.join(settings['fixed']) if fixed else ''}"
    )
    micro = run.micro_batch_size or _micro_batch(run.global_batch_size, tuned.global_batch_size, largest)
    return replace(run, adapt=partial(DATE, **settings), micro_batch_size=micro, notes=(*run.notes, note))


def _micro_batch(batch: int, base: int, largest: int | None) -> int | None:
    most = batch if largest is None else largest
    # no smaller than the baseline's batch, whose noise is known to be bearable
    cuts = [n for n in CUTS if batch % n == 0 and base <= batch // n <= most]
    if cuts:
        return batch // cuts[0]
    if batch == base:
        return None
    return next((size for size in range(min(batch // 2, most), 0, -1) if batch % size == 0), None)


def fixing(run: Run, assignments: Collection[str]) -> Run:
    """A run with DATE, which leaves alone what ``NAME=VALUE`` assignments have set in it."""
    names = {FIXED[name] for one in assignments if (name := one.partition("=")[0].strip()) in FIXED}
    if run.adapt is None or not names:
        return run
    keywords = run.adapt.keywords
    before = keywords.get("fixed", ())
    given = {"lr": run.optimizer.keywords.get("lr"), "max_norm": run.max_norm}
    given["warmup_samples"] = run.schedule.keywords.get("warmup_samples", 0)
    tuned = {**keywords["baseline"].keywords, **{name: given[name] for name in names & set(given)}}
    known = {name: value for name, value in tuned.items() if value is not None}
    changed = {
        "baseline": partial(Hyperparameters, **known),
        "fixed": tuple(sorted({*([before] if isinstance(before, str) else before), *names})),
    }
    return replace(run, adapt=partial(run.adapt.func, **{**keywords, **changed}))
