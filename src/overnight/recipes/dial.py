"""The one dial: from a tuned baseline and a batch to hyper-parameters, each derived number explained."""

import difflib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

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

    A rate, a warm-up or a clip that the user gave stay as they are.

    Args:
        run: with the baseline's settings at its own batch.
        baseline: tuned at its batch, with the ``max_norm`` that the recipe has unless another is given.
        rule: name of the rule.
        lr, warmup_steps: that the user gave.

    Raises:
        UserError: for a batch below the baseline's.
    """
    if rule != "date":
        return run
    check_up(run.global_batch_size, baseline.global_batch_size)
    from dataclasses import replace

    from overnight.tune.online import with_date

    fixed: set[str] = set()
    if lr is not None:
        baseline, fixed = replace(baseline, lr=lr), fixed | {"lr"}
    if warmup_steps is not None:
        baseline = replace(baseline, warmup_samples=warmup_steps * run.global_batch_size)
        fixed = fixed | {"warmup_samples"}
    if run.max_norm != baseline.max_norm:
        fixed = fixed | {"max_norm"}
    return with_date(run, replace(baseline, max_norm=run.max_norm, total_samples=None), fixed=fixed)


def check_up(batch: int, base: int) -> None:
    """Raise a UserError for a batch below the baseline's, to which DATE does not go."""
    if batch < base:
        raise UserError(
            f"The rule date goes up from a batch of {base}, not down to {batch}.", "Take --rule legw, or another batch."
        )


def near(name: str, names: Iterable[str]) -> str:
    """A remedy that names the nearest of the names, or all."""
    names = list(names)
    found = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {found[0]}?" if found else f"Choose one of {', '.join(names)}."
