"""A run as what a rule scales, and back: its hyper-parameters out of its components, and new ones into them."""

import inspect
import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from overnight.errors import UserError
from overnight.scaling import Hyperparameters
from overnight.scaling.group_settings import NORMALISED
from overnight.train.build import construct
from overnight.train.components import Component, import_path, keyword_names
from overnight.train.run import Run

DECOUPLED = ("AdamW", "NAdamW", "RowAdam")
"""Classes whose step takes lr · wd · w. Inside a trust ratio decay does not follow the rate, and stays."""
POSITIONS = ("every_samples", "start_samples", "horizon_samples", "period_samples", "milestones")
"""Settings of schedules that are positions in a run: where the run lengthens they move along."""


@dataclass(frozen=True)
class Baseline:
    """A run that is tuned at its batch.

    Attributes:
        run: it.
        tuned: what a rule scales; ``total_samples`` is None for a budget of minutes at an unknown speed.
        samples_per_epoch: of its data.
        adaptive: its optimizer normalises the update.
    """

    run: Run
    tuned: Hyperparameters
    samples_per_epoch: float
    adaptive: bool

    @property
    def optimizer(self) -> str:
        """Name of its class."""
        return optimizer_of(self.run)


def optimizer_of(run: Run) -> str:
    """Name of the class of a run's optimizer."""
    return str(getattr(run.optimizer.func, "__name__", run.optimizer.func))


def baseline_of(run: Run, samples_per_second: float | None = None) -> Baseline:
    """Read a run's hyper-parameters off its components; what nobody set is its constructor's default.

    Args:
        run: tuned at its batch.
        samples_per_second: at that batch, of which a budget of minutes makes samples.

    Raises:
        UserError: for a run without a rate, or data that cannot be read.
    """
    run.check()
    data = construct("data", run.data, lanes=run.global_batch_size, seed=run.seed)
    samples_per_epoch = float(data.steps_per_epoch * run.global_batch_size)
    lr = run.optimizer.keywords.get("lr")
    if not isinstance(lr, (int, float)):
        raise UserError(
            f"This run has no tuned rate: its {import_path(run.optimizer.func)} has no lr.",
            "Name a recipe or a run with a tuned baseline, or give the rate with --set optimizer.lr=RATE.",
        )
    betas, eps = _setting(run.optimizer, "betas"), _setting(run.optimizer, "eps")
    pair = (float(betas[0]), float(betas[1])) if betas is not None and len(betas) == 2 else None
    name = getattr(run.optimizer.func, "__name__", "")
    averaged = run.ema.keywords.get("decay") if run.ema is not None else None
    try:
        tuned = Hyperparameters(
            lr=float(lr),
            global_batch_size=run.global_batch_size,
            warmup_samples=float(run.schedule.keywords.get("warmup_samples", 0)),
            total_samples=_total(run, samples_per_epoch, samples_per_second),
            betas=pair,
            eps=float(eps) if isinstance(eps, (int, float)) else None,
            momentum=_setting(run.optimizer, "momentum") or None,
            weight_decay=_decay(run) if name in DECOUPLED else None,
            max_norm=run.max_norm,
            ema_decay=averaged,
        )
    except ValueError as error:
        raise UserError(f"This run is no baseline: {error}", "Mend it, or name another.") from None
    return Baseline(run, tuned, samples_per_epoch, pair is not None or name in NORMALISED)


def scaled_run(baseline: Baseline, found: Hyperparameters, micro_batch_size: int | None, note: str | None) -> Run:
    """The baseline's run with other hyper-parameters; what they leave alone stays as it was written.

    Args:
        baseline: where it comes from.
        found: at the new batch.
        micro_batch_size: of one forward and backward.
        note: why, for the run's notes; None for none.
    """
    run, tuned = baseline.run, baseline.tuned
    stretch = 1.0
    if tuned.total_samples and found.total_samples:
        stretch = found.total_samples / tuned.total_samples
    optimizer: dict[str, Any] = {"lr": found.lr}
    groups: dict[str, Any] = {}
    for name in ("betas", "eps", "momentum"):
        if getattr(found, name) != getattr(tuned, name):
            optimizer[name] = getattr(found, name)
    if found.weight_decay != tuned.weight_decay:
        of_groups = run.param_groups is not None and "weight_decay" in run.param_groups.keywords
        (groups if of_groups else optimizer)["weight_decay"] = found.weight_decay
    changed = replace(
        run,
        optimizer=_with(run.optimizer, optimizer),
        param_groups=run.param_groups if run.param_groups is None else _with(run.param_groups, groups),
        schedule=_schedule(run.schedule, found, stretch),
        global_batch_size=found.global_batch_size,
        micro_batch_size=micro_batch_size,
        max_norm=found.max_norm,
        notes=run.notes if note is None else (*run.notes, note),
        **_budget(run, found, stretch),
    )
    if run.ema is not None and found.ema_decay != tuned.ema_decay:
        changed = replace(changed, ema=_with(run.ema, {"decay": found.ema_decay}))
    return changed


def _total(run: Run, samples_per_epoch: float, samples_per_second: float | None) -> float | None:
    if run.epochs is not None:
        return run.epochs * samples_per_epoch
    if run.steps is not None:
        return float(run.steps * run.global_batch_size)
    return None if samples_per_second is None or run.minutes is None else 60.0 * run.minutes * samples_per_second


def _budget(run: Run, found: Hyperparameters, stretch: float) -> dict[str, Any]:
    if run.epochs is not None:
        return {"epochs": run.epochs * stretch}
    if found.total_samples is None:
        return {}
    return {"steps": max(1, math.ceil(round(found.total_samples / found.global_batch_size, 6))), "minutes": None}


def _schedule(schedule: Component, found: Hyperparameters, stretch: float) -> Component:
    settings: dict[str, Any] = {}
    names = keyword_names(schedule.func)
    if names is None or "warmup_samples" in names:
        settings["warmup_samples"] = found.warmup_samples
    for name in POSITIONS:
        value = schedule.keywords.get(name)
        if isinstance(value, (list, tuple)):
            # what would lie in the warm-up happens when that ends
            settings[name] = tuple(sorted({max(stretch * one, found.warmup_samples) for one in value}))
        elif value is not None and stretch != 1.0:
            settings[name] = stretch * value
    return _with(schedule, settings)


def _decay(run: Run) -> float | None:
    groups = run.param_groups.keywords if run.param_groups is not None else {}
    value = groups.get("weight_decay", _setting(run.optimizer, "weight_decay"))
    return float(value) if isinstance(value, (int, float)) and value > 0 else None


def _setting(component: Component, name: str) -> Any:
    if name in component.keywords:
        return component.keywords[name]
    parameter = inspect.signature(component.func).parameters.get(name)
    return None if parameter is None or parameter.default is inspect.Parameter.empty else parameter.default


def _with(component: Component, settings: dict[str, Any]) -> Component:
    return partial(component.func, **{**component.keywords, **settings})
