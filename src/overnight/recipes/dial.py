"""The one dial: from a tuned baseline and a batch to hyper-parameters, each derived number explained."""

import difflib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from overnight.errors import UserError

if TYPE_CHECKING:
    from overnight.scaling import Hyperparameters
    from overnight.train.run import Run


def scaled(
    baseline: "Hyperparameters", batch: int, rule: str, lr: float | None = None
) -> "tuple[Hyperparameters, list[str]]":
    """The baseline at another batch by a rule of ``overnight.scaling.rules``, and what there is to say of it.

    Args:
        baseline: tuned at its batch.
        batch: the new one.
        rule: name of the rule.
        lr: a rate that the user gave; then no rule touches anything.

    Raises:
        UserError: for a batch or a rate that cannot be, or a rule that does not reach that batch.
    """
    from dataclasses import replace

    from overnight.scaling import rules

    if batch < 1:
        raise UserError(f"A batch of {batch} cannot work.", "Take at least 1.")
    if lr is not None:
        if not 0 < lr < math.inf:
            raise UserError(f"A rate of {lr:g} cannot work.", "Take --lr above 0, or leave it to the recipe.")
        return replace(baseline, lr=lr, global_batch_size=batch), []
    if rule == "date":  # it begins at the baseline, and scales it as training goes
        return replace(baseline, global_batch_size=batch), []
    try:
        found = getattr(rules, rule)(baseline, global_batch_size=batch)
    except ValueError as error:
        raise UserError(str(error), "Take another --rule, another batch or more epochs.") from error
    changed = batch != baseline.global_batch_size
    return found.hyperparameters, [found.explanation] if changed else []


def planned(rule: str) -> str:
    """The rule by which a recipe is built: DATE begins at the baseline, and scales it as training goes."""
    return "none" if rule == "date" else rule


def adapted(
    run: "Run", baseline: "Hyperparameters", rule: str, lr: float | None = None, warmup_steps: int | None = None
) -> "Run":
    """The run of a recipe that was built by ``planned(rule)``, with DATE if that is the rule (docs/methods/date.md).

    Micro-batches are the user's, or no smaller than the baseline's batch, at most 16 a step.

    Args:
        run: with the baseline's settings at its own batch.
        baseline: tuned at its batch.
        rule: name of the rule.
        lr: a rate that the user gave; then no rule touches anything.
        warmup_steps: that the user gave, and that stay.

    Raises:
        UserError: for a batch below the baseline's.
    """
    if rule != "date" or lr is not None:
        return run
    from dataclasses import fields, replace
    from functools import partial

    from overnight.scaling import DATE, Hyperparameters

    batch, base = run.global_batch_size, baseline.global_batch_size
    if batch < base:
        raise UserError(
            f"The rule date goes up from a batch of {base}, not down to {batch}.", "Take --rule legw, or another batch."
        )
    fixed: dict[str, Any] = {}
    if warmup_steps is not None:
        baseline, fixed = replace(baseline, warmup_samples=warmup_steps * batch), {"fixed": ("warmup_samples",)}
    baseline = replace(baseline, max_norm=run.max_norm, total_samples=None)
    known = {item.name: getattr(baseline, item.name) for item in fields(baseline)}
    given = {name: value for name, value in known.items() if value is not None}
    adapt = partial(DATE, baseline=partial(Hyperparameters, **given), **fixed)
    cuts = [n for n in (16, 8, 4, 2) if batch % n == 0 and (batch // n >= base or (n == 2 and batch > base))]
    micro = run.micro_batch_size or (batch // cuts[0] if cuts else None)
    note = f"rate, length and batch follow the noise scale, from lr {baseline.lr:g} at batch {base} (DATE)"
    return replace(run, adapt=adapt, micro_batch_size=micro, notes=(*run.notes, note))


def near(name: str, names: Iterable[str]) -> str:
    """A remedy that names the nearest of the names, or all."""
    names = list(names)
    found = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {found[0]}?" if found else f"Choose one of {', '.join(names)}."
