"""Pure functions of progress in samples → factor of the peak rate, and ``apply``, which sets a torch optimizer's."""

from overnight.schedule.apply import ProgressLR, apply
from overnight.schedule.curves import constant, cosine, linear, polynomial
from overnight.schedule.endless import cosine_restarts, exponential, inverse_sqrt, multistep
from overnight.schedule.phases import phases
from overnight.schedule.progress import Progress, Schedule
from overnight.schedule.warmup import rewarm, warmup

__all__ = [
    "Progress",
    "ProgressLR",
    "Schedule",
    "apply",
    "constant",
    "cosine",
    "cosine_restarts",
    "exponential",
    "inverse_sqrt",
    "linear",
    "multistep",
    "phases",
    "polynomial",
    "rewarm",
    "warmup",
]
