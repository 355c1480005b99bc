"""Batch B₀ → k·B₀: rules from a tuned baseline to a full set of hyper-parameters."""

from overnight.scaling.hyperparameters import Hyperparameters
from overnight.scaling.rules import Scaled

__all__ = ["Hyperparameters", "Scaled"]
