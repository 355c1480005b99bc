"""Pure functions of progress in samples → factor of the peak rate."""

from overnight.schedule.curves import Progress, constant, cosine, linear, polynomial

__all__ = ["Progress", "constant", "cosine", "linear", "polynomial"]
