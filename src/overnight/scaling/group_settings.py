"""What an on-line engine sets in an optimizer's parameter groups: each group's own values, scaled."""

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.scaling import companions
from overnight.scaling.hyperparameters import Hyperparameters

FIXABLE = (
    "lr", "warmup_samples", "total_samples", "global_batch_size", "betas", "eps", "weight_decay", "max_norm",
)  # fmt: skip
_SET = ("betas", "eps", "weight_decay")
NORMALISED = ("LARS", "LAMB", "Adagrad", "RowAdagrad", "RMSprop", "Muon")
"""Classes without betas, or beside them, whose update does not grow with the gradient."""


class GroupSettings:
    """Scales rate, betas, ε and weight decay of every group from what they were when it was made.

    Betas, ε, decay and clip follow the gain only where the baseline names them, and they are not fixed.

    Args:
        optimizer: with the baseline's settings.
        baseline: the tuned ones.
        adaptive: the update is normalised; otherwise weight decay stays.
        fixed: settings that are left alone.

    Raises:
        UserError: if no group has the baseline's rate.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, baseline: Hyperparameters, adaptive: bool, fixed: Collection[str]
    ) -> None:
        self._optimizer, self._baseline, self._adaptive = optimizer, baseline, adaptive
        names = [name for name in (*_SET, "max_norm") if getattr(baseline, name) is not None and name not in fixed]
        self._follow = frozenset(names if adaptive else set(names) - {"weight_decay"})
        self._initial = [
            {name: float(group[name]) if name == "lr" else group[name] for name in ("lr", *_SET) if name in group}
            for group in optimizer.param_groups
        ]
        rates = [initial["lr"] for initial in self._initial]
        if not any(math.isclose(rate, baseline.lr, rel_tol=1e-6) for rate in rates):
            raise UserError(
                f"The optimizer's rate is {rates[0]:g}, and the baseline's {baseline.lr:g}.",
                "Build the optimizer with the settings of the baseline: DATE scales them.",
            )

    def followed(self, name: str, r: float, value: Any = None) -> Any:
        """A setting at gain r: the baseline's, or ``value``."""
        value = getattr(self._baseline, name) if value is None else value
        if value is None or name not in self._follow:
            return value
        if name == "betas":
            return companions.adam_betas(tuple(value), r)
        if name == "eps":
            return companions.adam_eps(value, r)
        if name == "weight_decay":
            return companions.decoupled_weight_decay(value, r)
        return value / math.sqrt(r)

    def described(self, r: float) -> dict[str, float]:
        """What follows a gain, as numbers."""
        found: dict[str, float] = {}
        for name in sorted(self._follow):
            value = self.followed(name, r)
            found |= {"beta1": value[0], "beta2": value[1]} if name == "betas" else {name: value}
        return found

    def apply(self, factor: float, r: float) -> None:
        """Set every group.

        Args:
            factor: on the rates.
            r: the gain that the others follow.
        """
        for group, initial in zip(self._optimizer.param_groups, self._initial, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(initial["lr"] * factor)
            else:
                group["lr"] = initial["lr"] * factor
            for name in _SET:
                if name in initial and name in self._follow:
                    group[name] = self.followed(name, r, initial[name])
