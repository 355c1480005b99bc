"""One boost: the columns, the rule, and whether what it found is accepted."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.optim.subspace.buffer import DisplacementBuffer, Weight
from overnight.optim.subspace.closure import BoostClosure
from overnight.optim.subspace.rules import CoefficientRule
from overnight.optim.subspace.subspace import Subspace, raw_columns, searched_columns

REPEATABLE = 1e-4
"""How far two losses of the same weights may differ, relatively: reductions on a GPU have no fixed order."""


@dataclass(frozen=True)
class Boost:
    """What one boost did.

    Attributes:
        outer: its number, from 1.
        step: steps of the base optimizer before it.
        coefficients: α, one a column; zeros where it stayed.
        loss_before: of the boost batch at α = 0, the mean over ranks; None without a loss.
        loss_after: at the point that the rule chose, also where that was refused.
        second_before: likewise of the second batch.
        second_after: likewise of the second batch.
        accepted: whether it moved the weights, or with ``jump=False`` would have.
        reason: why not.
        gradients: forward and backward passes of boost batches.
        forwards: forward passes.
        products: Jacobian products, in forward mode.
    """

    outer: int
    step: int
    coefficients: tuple[float, ...] = ()
    loss_before: float | None = None
    loss_after: float | None = None
    second_before: float | None = None
    second_after: float | None = None
    accepted: bool = False
    reason: str = ""
    gradients: int = 0
    forwards: int = 0
    products: int = 0


def search(
    rule: CoefficientRule,
    buffer: DisplacementBuffer,
    weights: Sequence[Weight],
    closure: BoostClosure | None,
    second: BoostClosure | None,
    ridge: float,
    orthonormal: bool,
) -> tuple[dict[str, Any], Tensor]:
    """What ``Boost`` says of it, and the coefficients of the buffer's rows, [rows]; zeros where it stays.

    The weights are there afterwards.

    Raises:
        UserError: if the loss is not repeatable.
    """
    if rule.searches:
        columns, history = searched_columns(buffer, buffer.layout, weights, orthonormal)
    else:
        columns = raw_columns(buffer, buffer.layout, rule.keeps_average, rule.keeps_residuals)
        history = buffer.filled
    subspace = Subspace(buffer, weights, columns, closure, ridge, history)
    zero = torch.zeros(subspace.size, dtype=torch.float64)
    found: dict[str, Any] = {}
    if closure is not None:
        found["loss_before"] = closure()
    if not math.isfinite(found.get("loss_before", 0.0)):
        alpha, reason = zero, "the loss is not finite"
    else:
        alpha = rule.coefficients(subspace)
        reason = "" if bool(alpha.isfinite().all()) else "the rule found no finite coefficients"
        reason = reason or ("" if bool(alpha.any()) else "the rule stays")
        if closure is not None:
            if not _alike(subspace, zero, found["loss_before"]):
                subspace.losses.clear()
            reason = reason or _judge(subspace, alpha, second, found)
    if closure is not None:
        found["gradients"], found["products"] = closure.gradients, closure.products
        found["forwards"] = closure.forwards + (0 if second is None else second.forwards)
    alpha = zero if reason else alpha
    subspace.move(alpha)
    return {**found, "coefficients": tuple(alpha.tolist()), "accepted": not reason, "reason": reason}, columns @ alpha


def _judge(subspace: Subspace, alpha: Tensor, second: BoostClosure | None, found: dict[str, Any]) -> str:
    key = tuple(alpha.tolist())
    if key not in subspace.losses:
        subspace.value(alpha)
    found["loss_after"] = subspace.losses[key]
    if not found["loss_after"] <= found["loss_before"]:
        return "the loss of the boost batch rose"
    if second is not None:
        subspace.move(torch.zeros_like(alpha))
        found["second_before"] = second()
        subspace.move(alpha)
        found["second_after"] = second()
        if not found["second_after"] <= found["second_before"]:
            return "the loss of the second batch rose"
    return ""


def _alike(subspace: Subspace, zero: Tensor, before: float) -> bool:
    """Whether the rule saw the loss that was there before it.

    Where it did not, that loss once more says why: a pass with derivatives may run other kernels than one without, in
    bfloat16 with a difference that shows, and then only losses of the same kind may be compared.
    """
    origin = tuple(zero.tolist())
    if origin not in subspace.losses:
        subspace.value(zero)
    seen = subspace.losses[origin]
    if _close(before, seen):
        return True
    subspace.value(zero)
    again = subspace.losses[origin]
    if not _close(before, again):
        raise UserError(
            f"The loss of the boost batch is not repeatable: {before:.8g} and {again:.8g} for the same weights.",
            "Let loss draw from torch's generators or a generator that a module owns, which are put back, and "
            "take nothing else that changes.",
        )
    return False


def _close(before: float, again: float) -> bool:
    return abs(before - again) <= REPEATABLE * max(abs(before), 1e-30)
