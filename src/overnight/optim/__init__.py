"""Layer-wise optimizers. ``__all__`` is the registry: what it names is tested, and offered by the command line."""

from overnight.optim.lamb import LAMB
from overnight.optim.lars import LARS

__all__ = ["LAMB", "LARS"]
