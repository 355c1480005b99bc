"""Optimizers by name, each of them in the place of a recipe's own."""

from dataclasses import replace
from functools import partial
from typing import Any

import torch

from overnight.errors import UserError
from overnight.optim import LAMB, LARS
from overnight.optim.rows import RowSGD
from overnight.train.run import Run

OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "sgd": (RowSGD, {}),
    "momentum": (torch.optim.SGD, {"momentum": 0.9}),
    "nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "adam": (torch.optim.Adam, {"betas": (0.9, 0.999), "eps": 1e-8}),
    # every tensor is adapted, biases too: those that are not would see a rate that is meant as a share of the norm
    "lars": (LARS, {"momentum": 0.9}),
    "lamb": (LAMB, {"betas": (0.9, 0.999)}),
}
ORACLES = ("adam", "nesterov")
"""Which of them the oracle tunes at every batch."""
NOT_ADAPTIVE = ("sgd", "momentum", "nesterov")


def with_optimizer(run: Run, name: str, lr: float) -> Run:
    """The run with another optimizer, on all parameters in one group; the recipe's own stays as it is.

    Raises:
        UserError: for a name that there is not.
    """
    if name not in OPTIMIZERS:
        raise UserError(f"There is no optimizer {name!r} in this benchmark.", f"Choose one of {', '.join(OPTIMIZERS)}.")
    made, settings = OPTIMIZERS[name]
    if run.optimizer.func is made and not name.endswith("ov") and run.optimizer.keywords.get("lr") == lr:
        return run
    return replace(run, optimizer=partial(made, lr=lr, **settings), param_groups=None)
