"""What SEBoost refuses when it is built."""

import inspect
import math
from typing import TYPE_CHECKING, Any

import torch
from torch.optim import Optimizer

from overnight.errors import UserError
from overnight.optim.subspace.closure import groups_of
from overnight.optim.subspace.rules import CoefficientRule

if TYPE_CHECKING:
    from overnight.optim.subspace.seboost import SEBoost


def check_settings(optimizer: "SEBoost", history: Any, anchors: Any, momentum_column: Any) -> None:
    """Raise a UserError for settings that cannot work, each named."""
    base, rule = optimizer.base, optimizer.rule
    if not isinstance(base, Optimizer):
        raise UserError(f"base is a {type(base).__name__}.", "Give a torch.optim.Optimizer, built with its parameters.")
    if isinstance(base, type(optimizer)):
        raise UserError("base is a SEBoost itself.", "Wrap the optimizer inside it.")
    closure = inspect.signature(base.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"SEBoost cannot wrap {type(base).__name__}, whose step needs a closure.",
            "Take an optimizer that steps by gradients that are there.",
        )
    if not isinstance(rule, CoefficientRule):
        raise UserError(f"rule is a {type(rule).__name__}.", "Give a rule of overnight.optim.subspace.")
    for name, value in (("every", optimizer.every), ("history", history)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            meaning = "l, the steps between boosts" if name == "every" else "M, the displacements that are kept"
            raise UserError(f"{name}={value!r} ({meaning}) is not a whole number of at least 1.", f"Raise {name}.")
    if history < rule.least_history():
        raise UserError(f"history={history} is too short for {rule}.", f"Set it to {rule.least_history()} or more.")
    if any(isinstance(a, bool) or not isinstance(a, int) or a < 1 for a in anchors):
        raise UserError(f"anchors={anchors!r} are not whole numbers of at least 1.", "Count in boosts, such as (50,).")
    if not isinstance(momentum_column, (int, float)) or not 0.0 <= momentum_column < 1.0:
        raise UserError(f"momentum_column={momentum_column!r} is out of range.", "Choose from 0 to below 1.")
    if not isinstance(optimizer.ridge, (int, float)) or not 0.0 <= optimizer.ridge < math.inf:
        raise UserError(f"ridge={optimizer.ridge!r} is out of range.", "Choose a number of at least 0.")
    if optimizer.base_momentum not in ("keep", "reset", "pullback"):
        raise UserError(f"base_momentum={optimizer.base_momentum!r} is unknown.", "Choose keep, reset or pullback.")
    _check_loss(optimizer, bool(anchors) or momentum_column > 0)


def storage_dtype(value: Any) -> torch.dtype | None:
    """A dtype, or its name, that displacements can be kept in.

    Raises:
        UserError: for any other.
    """
    dtype = getattr(torch, value, None) if isinstance(value, str) else value
    if dtype not in (None, torch.bfloat16, torch.float16, torch.float32, torch.float64) or (value and dtype is None):
        raise UserError(f"storage_dtype={value!r} is unknown.", "Choose bfloat16, float16, float32 or float64.")
    return dtype


def _check_loss(optimizer: "SEBoost", more_columns: bool) -> None:
    rule, name = optimizer.rule, type(optimizer.rule).__name__
    if rule.searches and optimizer.loss is None:
        raise UserError(f"{name} searches by the loss, and none was given.", "Give loss= and model=.")
    if rule.needs_outputs and optimizer.outputs is None:
        raise UserError(f"{name} needs the model's outputs.", "Give outputs=, and a loss of (outputs, batch).")
    if optimizer.loss is not None and optimizer.model is None:
        raise UserError(
            "A loss was given without its model.", "Give model=, whose normalisation and dropout are fixed."
        )
    if optimizer.loss is None and optimizer.batches is not None:
        raise UserError("batches were given without a loss.", "Give loss= and model=.")
    if not rule.searches and (more_columns or optimizer.orthonormal or optimizer.ridge):
        raise UserError(
            f"{name} does not search by the loss, which anchors, momentum and ridge are for.",
            "Leave out anchors=, momentum_column=, orthonormal= and ridge=.",
        )
    parameters = [p for group in optimizer.base.param_groups for p in group["params"]]
    if any(p.is_complex() for p in parameters):
        raise UserError("A complex parameter is not supported.", "Give torch.view_as_real of it.")
    if optimizer.loss is not None and optimizer.model is not None:
        groups_of(optimizer.model, optimizer.process_group)
        owned = {id(p) for p in optimizer.model.parameters()}
        strange = [p for p in parameters if id(p) not in owned]
        if strange:
            raise UserError(
                f"A parameter of shape {tuple(strange[0].shape)} of the optimizer is not in the model.",
                "Give the model whose parameters it trains.",
            )
