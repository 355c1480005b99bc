"""The one dial: from a tuned baseline and a batch to hyper-parameters, each derived number explained."""

import difflib
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from overnight.errors import UserError

if TYPE_CHECKING:
    from overnight.scaling import Hyperparameters


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
    try:
        found = getattr(rules, rule)(baseline, global_batch_size=batch)
    except ValueError as error:
        raise UserError(str(error), "Take another --rule, another batch or more epochs.") from error
    changed = batch != baseline.global_batch_size
    return found.hyperparameters, [found.explanation] if changed else []


def near(name: str, names: Iterable[str]) -> str:
    """A remedy that names the nearest of the names, or all."""
    names = list(names)
    found = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {found[0]}?" if found else f"Choose one of {', '.join(names)}."
