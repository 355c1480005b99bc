"""One recipe at one batch: by a rule from the baseline, line by line, with its costs and its risks."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from overnight.errors import UserError
from overnight.scaling import Hyperparameters, rules
from overnight.scaling.gain import gain
from overnight.train.run import Run
from overnight.tune.baseline import Baseline, baseline_of, scaled_run
from overnight.tune.online import online_run
from overnight.tune.outlook import Costs
from overnight.tune.record import Probe
from overnight.tune.settings import Setting, settings_of

FEW_STEPS = 200
NAMES = {
    "optimizer.betas": "betas",
    "optimizer.eps": "ε",
    "optimizer.momentum": "momentum",
    "optimizer.weight_decay": "weight decay",
    "param_groups.weight_decay": "weight decay",
    "max_norm": "clip",
    "schedule.warmup_samples": "warm-up",
    "ema.decay": "weight average",
    "epochs": "length",
    "steps": "length",
    "minutes": "length",
}
"""Settings that a user may fix, and the lines of the plan that they stand in."""


@dataclass(frozen=True)
class Target:
    """A recipe at one batch.

    Attributes:
        run: it.
        k: over the baseline's batch.
        hyperparameters: of it.
        explanation: the rule's sentence.
        settings: line by line.
        costs: of the run as planned, and of the baseline's quality as predicted.
        risks: a sentence each.
    """

    run: Run
    k: float
    hyperparameters: Hyperparameters
    explanation: str
    settings: tuple[Setting, ...]
    costs: Mapping[str, Any]
    risks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the run."""
        return {
            "batch": self.hyperparameters.global_batch_size,
            "micro_batch_size": self.run.micro_batch_size,
            "k": self.k,
            "hyperparameters": asdict(self.hyperparameters),
            "explanation": self.explanation,
            "settings": [asdict(setting) for setting in self.settings],
            "costs": dict(self.costs),
            "risks": list(self.risks),
        }


def target_of(
    baseline: Baseline,
    batch: int,
    rule: str,
    noise_scale: float | None,
    costs: Costs,
    probe: Probe | None,
    held: tuple[str, ...],
    online: bool = False,
) -> Target:
    """The baseline at another batch.

    Args:
        baseline, batch, rule: from where, to where, how.
        noise_scale: that the rule may use; None if there is none to be believed.
        costs: what is known of them.
        probe: whose layers' relative steps are looked at.
        held: ``NAME=VALUE`` settings that no rule may change.
        online: the run adapts itself, from the baseline's settings on.

    Raises:
        UserError: if the rule does not reach that batch, or a micro-batch that the user set does not fit.
    """
    tuned = baseline.tuned
    settings: dict[str, Any] = {}
    if rule in ("date", "adascale"):
        settings["noise_scale"] = math.inf if noise_scale is None else noise_scale
    if rule == "date":
        settings["adaptive"] = baseline.adaptive
    try:
        scaled: rules.Scaled = getattr(rules, rule)(tuned, global_batch_size=batch, **settings)
    except ValueError as error:
        raise UserError(str(error), "Take another --rule, a smaller batch or a longer baseline.") from None
    micro = _micro_batch(baseline.run, batch, costs)
    names = [assignment.partition("=")[0].strip() for assignment in held]
    note = f"{scaled.explanation} As given, whatever the rule: {', '.join(held)}." if held else scaled.explanation
    run = scaled_run(baseline, _held_length(baseline, scaled.hyperparameters, names), micro, note)
    for assignment in held:
        run = run.with_setting(assignment)
    planned_run = run
    if online:
        most = batch // costs.devices if costs.curve is None else costs.curve.largest_batch
        run = online_run(baseline, batch, most, names)
    speed = None if costs.curve is None else batch / costs.curve.accumulated(batch)[1]
    after = scaled.hyperparameters if not held else baseline_of(planned_run, speed).tuned
    layers = () if probe is None else tuple(probe.layers[name] for name in probe.matrices)
    lines = settings_of(
        rule,
        tuned,
        after,
        adaptive=baseline.adaptive,
        measured=noise_scale is not None,
        trust_ratio=baseline.optimizer in ("LARS", "LAMB"),
        layers=layers,
        decay=f"{_decay(baseline.run):.4g}",
        fixed=[NAMES[name] for name in names if name in NAMES],
    )
    found = costs.at(batch)
    seconds, shared = costs.step_seconds(batch), costs.shared_step_seconds(batch)
    planned = {
        "planned_steps": after.total_steps,
        "planned_epochs": None if after.total_samples is None else after.total_samples / baseline.samples_per_epoch,
        "planned_hours": costs.hours(after.total_samples, batch, seconds),
        "planned_shared_hours": None
        if shared is None
        else [costs.hours(after.total_samples, batch, each) for each in shared],
        "epochs": None
        if found["samples_ratio"] is None or tuned.total_samples is None
        else found["samples_ratio"] * tuned.total_samples / baseline.samples_per_epoch,
        "gain": None if noise_scale is None else gain(noise_scale, tuned.global_batch_size, scaled.k),
        "step_seconds": seconds,
        "shared_step_seconds": None if shared is None else list(shared),
    }
    risks = _risks(baseline, rule, batch, after, noise_scale, found["samples_ratio"])
    return Target(run, scaled.k, after, scaled.explanation, lines, found | planned, risks)


def _held_length(baseline: Baseline, found: Hyperparameters, names: Sequence[str]) -> Hyperparameters:
    """Hyper-parameters over the length that the user gave, if any: so positions of the schedule do not pass its end."""
    run, total = baseline.run, found.total_samples
    if "steps" in names and run.steps is not None:
        total = float(run.steps * found.global_batch_size)
    elif "epochs" in names:
        total = baseline.tuned.total_samples
    if total is None or total == found.total_samples:
        return found
    warmup = min(found.warmup_samples, max(baseline.tuned.warmup_samples, rules.LONGEST_WARMUP * total))
    return replace(found, total_samples=total, warmup_samples=warmup)


def _micro_batch(run: Run, batch: int, costs: Costs) -> int | None:
    """What the user said, if it divides a device's share; else the largest part of it that was seen to fit."""
    share = batch // costs.devices
    largest = share if costs.curve is None else costs.curve.largest_batch
    if run.micro_batch_size is not None and share % run.micro_batch_size == 0:
        if costs.curve is not None and costs.curve.stopped_by == "memory" and run.micro_batch_size > largest:
            raise UserError(
                f"A micro-batch of {run.micro_batch_size:,} does not fit into memory; the largest that was seen to fit "
                f"is {largest:,}.",
                f"Take --micro-batch-size {largest} or less, or leave it out.",
            )
        return run.micro_batch_size
    if share <= largest:
        return None
    return max(size for size in range(1, largest + 1) if share % size == 0)


def _decay(run: Run) -> float:
    groups = run.param_groups.keywords if run.param_groups is not None else {}
    return float(groups.get("weight_decay", run.optimizer.keywords.get("weight_decay", 0.0)) or 0.0)


def _risks(
    baseline: Baseline,
    rule: str,
    batch: int,
    after: Hyperparameters,
    critical: float | None,
    ratio: float | None,
) -> tuple[str, ...]:
    risks = []
    if critical is not None and ratio is not None:
        if batch > critical:
            risks.append(
                f"Past the critical batch of about {critical:,.0f}: the same quality takes {100 * (ratio - 1):.0f} % "
                "more samples, and rules are least sure here."
            )
        before = baseline.tuned.total_samples
        if before is not None and after.total_samples is not None and after.total_samples < 0.95 * ratio * before:
            short = 100 * (1 - after.total_samples / (ratio * before))
            risks.append(f"The rule {rule} trains {short:.0f} % fewer samples than the law says the quality takes.")
        if rule == "linear" and batch > critical / 2:
            risks.append("The linear rule fails where noise no longer dominates: expect it to diverge first.")
    if after.total_steps is not None and after.total_steps < FEW_STEPS:
        risks.append(f"Only {after.total_steps:,} updates are left.")
    if after.total_samples is not None and after.warmup_samples > 0.5 * after.total_samples:
        risks.append(f"The warm-up takes {100 * after.warmup_samples / after.total_samples:.0f} % of the run.")
    if rule == "adascale" and baseline.adaptive:
        risks.append(f"AdaScale's gain is for SGD; {baseline.optimizer} normalises its update, which asks for √r.")
    if "length" in baseline.run.data.keywords:
        risks.append("More lanes are shorter lanes, another order of the data, of which no rule knows anything.")
    return tuple(risks)
