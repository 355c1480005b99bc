"""Layer-wise optimizers, and a wrapper. ``__all__`` is the registry: what it names is tested."""

from overnight.optim.lamb import LAMB
from overnight.optim.lars import LARS
from overnight.optim.subspace import SEBoost

__all__ = ["LAMB", "LARS", "SEBoost"]
