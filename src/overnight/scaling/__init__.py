"""Batch B₀ → k·B₀: rules from a tuned baseline to a full set of hyper-parameters, and DATE while training goes on."""

from typing import TYPE_CHECKING, Any

from overnight.scaling.hyperparameters import Hyperparameters
from overnight.scaling.rules import Scaled

if TYPE_CHECKING:
    from overnight.scaling.date import DATE as DATE

__all__ = ["DATE", "Hyperparameters", "Scaled"]


def __getattr__(name: str) -> Any:
    if name == "DATE":  # the only one that needs torch
        from overnight.scaling.date import DATE

        return DATE
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
