"""`overnight scale`: from one tuned baseline and a batch to a full recipe, what it will cost, and why."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from overnight.errors import UserError
from overnight.scaling.links import link as named_link
from overnight.train.run import Run
from overnight.tune.baseline import Baseline, baseline_of, optimizer_of
from overnight.tune.limits import gives, largest_data_batch
from overnight.tune.outlook import Costs, ladder, returns_end
from overnight.tune.record import Probe
from overnight.tune.settings import RULES
from overnight.tune.target import Target, target_of

FORMAT = "overnight-plan/1"
BEYOND = 8
"""The ladder goes on to so many times the largest target."""
DECIDED = ("global_batch_size",)


@dataclass(frozen=True)
class Plan:
    """Recipes at one or several batches, and the ladder that they stand on.

    Attributes:
        baseline: where they come from.
        rule: that made them.
        targets: by rising batch.
        rungs: what the baseline's quality costs at batch after batch.
        ends: where returns end: in ``steps``, ``hours`` and ``shared_hours``; a batch, or None.
        critical: critical batch in samples with its interval and its name; None if unknown.
        devices, link: over which it is planned.
        device: that was measured.
        notes: a sentence each.
    """

    baseline: Baseline
    rule: str
    targets: tuple[Target, ...]
    rungs: Sequence[Mapping[str, Any]]
    ends: Mapping[str, int | None]
    critical: Mapping[str, Any] | None
    devices: int = 1
    link: str | None = None
    device: str | None = None
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Plain data: what the page shows."""
        return {
            "format": FORMAT,
            "recipe": self.baseline.run.recipe,
            "optimizer": self.baseline.optimizer,
            "rule": self.rule,
            "baseline": asdict(self.baseline.tuned),
            "samples_per_epoch": self.baseline.samples_per_epoch,
            "critical": self.critical,
            "device": self.device,
            "devices": self.devices,
            "link": self.link,
            "targets": [target.to_json() for target in self.targets],
            "rungs": [dict(rung) for rung in self.rungs],
            "ends": dict(self.ends),
            "notes": list(self.notes),
        }


def scale(
    run: Run,
    batches: Sequence[int],
    *,
    rule: str = "date",
    probe: Probe | None = None,
    devices: int = 1,
    link: str | None = None,
    fixed: Sequence[str] = (),
    online: bool = False,
) -> Plan:
    """Plan a tuned run at other batches. Nothing is trained.

    Args:
        run: the baseline.
        batches: new ones, whole multiples of the baseline's.
        rule: a name in ``RULES``.
        probe: of this baseline; without it nothing is predicted.
        devices: that share a batch.
        link: between them, a name in ``overnight.scaling.links.LINKS``.
        fixed: ``NAME=VALUE`` settings of the baseline, in which they are already, that no rule may change.
        online: of ``date``: the runs go on measuring, and the plan is what they are expected to do.

    Raises:
        UserError: for batches, rules or settings that cannot work together, and a rule whose measurement is missing.
    """
    if rule not in RULES:
        raise UserError(f"There is no rule {rule!r}.", f"Choose one of {', '.join(RULES)}.")
    if devices < 1 or (devices > 1 and link is None):
        raise UserError(
            f"{devices} devices cannot be planned{'' if devices < 1 else ' without their link'}.",
            "Take --devices 1 or more." if devices < 1 else "Name it with --link, such as 10G, 100G, ndr or nvlink4.",
        )
    if link is not None and named_link(link) and devices == 1:
        raise UserError(f"The link {link} is between devices, and there is one.", "Say how many with --devices.")
    if online and rule != "date":
        raise UserError(
            f"The rule {rule} does not adapt a run that is under way.", "Take --rule date, or leave it out."
        )
    if run.adapt is not None:
        raise UserError(
            "This run sets its rate as it trains, so it is no baseline with a rate of its own.",
            "Name the recipe, or the run that it was scaled from.",
        )
    held = _held(fixed, rule)
    _same(run, probe)
    speed = None
    if probe is not None and probe.throughput is not None:
        speed = probe.throughput.samples_per_second(run.global_batch_size)
    baseline = baseline_of(run, speed)
    _check_batches(baseline, batches, devices)
    notes: list[str] = []
    scale_of = _noise(rule, probe, notes)
    costs = Costs(
        batch=run.global_batch_size,
        total_samples=baseline.tuned.total_samples,
        critical_batch=scale_of,
        curve=None if probe is None else probe.throughput,
        parameters=0 if probe is None else probe.parameters,
        devices=devices,
        link=None if link is None or devices == 1 else named_link(link),
    )
    if costs.curve is None:
        notes.append("No hours, since no speed was measured: give --probe with the throughput of this device.")
    targets = tuple(
        target_of(baseline, batch, rule, scale_of, costs, probe, held, online) for batch in sorted(set(batches))
    )
    rungs = ladder(costs, _reach(run, max(batches)))
    critical = None
    if probe is not None:
        noise, what = probe.scale()
        finite = {name: _finite(getattr(noise, name)) for name in ("noise_scale", "low", "high")}
        critical = {**finite, "usable": noise.usable, "what": what}
    return Plan(
        baseline=baseline,
        rule=rule,
        targets=targets,
        rungs=rungs,
        ends={key: returns_end(rungs, key) for key in ("steps", "hours", "shared_hours")},
        critical=critical,
        devices=devices,
        link=None if costs.link is None else costs.link.name,
        device=None if probe is None else probe.device,
        notes=tuple(notes),
    )


def _reach(run: Run, batch: int) -> int:
    """A batch beyond the largest target up to which it is worth looking."""
    reach = batch
    while reach < BEYOND * batch and gives(run, 2 * reach):
        reach *= 2
    return reach


def _held(fixed: Sequence[str], rule: str) -> tuple[str, ...]:
    names = [assignment.partition("=")[0].strip() for assignment in fixed]
    if "optimizer.lr" in names and rule != "none":
        raise UserError(
            f"The rate is given and so is the rule {rule}, which derives it.", "Leave one out, or take --rule none."
        )
    if any(name in DECIDED for name in names):
        raise UserError("The batch is given twice.", "Say it with --to alone; the baseline's is the recipe's.")
    return tuple(fixed)


def _same(run: Run, probe: Probe | None) -> None:
    if probe is None:
        return
    remedy = "Probe this baseline: overnight probe, with the same arguments."
    if (probe.recipe, probe.global_batch_size) != (run.recipe, run.global_batch_size):
        raise UserError(
            f"The probe is of {probe.recipe} at batch {probe.global_batch_size}, and the baseline is {run.recipe} at "
            f"batch {run.global_batch_size}.",
            remedy,
        )
    optimizer = optimizer_of(run)
    if probe.optimizer not in (None, optimizer):
        raise UserError(
            f"The probe is of {run.recipe} with {probe.optimizer}, and the baseline has {optimizer}.", remedy
        )
    # as JSON, since a probe's file has no tuples
    if probe.model is not None and json.dumps(probe.model) != json.dumps(run.to_json()["model"]):
        raise UserError(f"The probe is of another model of {run.recipe} than the baseline's.", remedy)


def _check_batches(baseline: Baseline, batches: Sequence[int], devices: int) -> None:
    base = baseline.run.global_batch_size
    if not batches:
        raise UserError("There is no batch to scale to.", "Name one with --to.")
    fits = largest_data_batch(baseline.run, max(batches))
    if fits < max(batches):
        raise UserError(
            f"The data give no batch of {max(batches):,}; the largest that fits is {fits:,}.",
            f"Take --to {fits // base * base} or less, or more data.",
        )
    for batch in batches:
        if batch < base:
            raise UserError(
                f"Batch {batch:,} is below the baseline's {base:,} (k = {batch / base:.3g}).",
                f"Take --to {base} or more.",
            )
        if batch % base:
            below = batch // base * base
            above = f" or --to {below + base}" if gives(baseline.run, below + base) else ""
            raise UserError(
                f"Batch {batch:,} is not a whole number of times the baseline's {base:,} (k = {batch / base:.4g}).",
                f"Take --to {below}{above}.",
            )
        if batch % devices:
            raise UserError(f"Batch {batch:,} cannot be shared by {devices} devices.", "Take a multiple of them.")


def _noise(rule: str, probe: Probe | None, notes: list[str]) -> float | None:
    """The noise scale that the rule may use; None if there is none to be believed."""
    if probe is None:
        if rule == "adascale":
            raise UserError(
                "AdaScale's gain needs a measured noise scale.", "Give --probe FILE, made by overnight probe."
            )
        notes.append("Nothing was measured (--probe), so epochs and returns cannot be predicted.")
        return None
    noise, what = probe.scale()
    if noise.usable:
        return noise.noise_scale
    seen = f"from {noise.low:,.0f} to {'∞' if math.isinf(noise.high) else f'{noise.high:,.0f}'}"
    if rule == "adascale":
        raise UserError(
            f"The probe's {what} is not to be used: its interval goes {seen}, more than a factor of 4.",
            "Probe longer (--steps), or with a larger batch; or take --rule legw.",
        )
    notes.append(f"The {what} is not used: its interval goes {seen}, more than a factor of 4. Probe longer (--steps).")
    return None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
