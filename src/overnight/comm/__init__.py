"""Exchanging gradients between ranks: sampled gradients, and a meter of any hook's bytes and seconds."""

from overnight.comm.checks import join_ranks
from overnight.comm.exchange import SampledState
from overnight.comm.meter import Meter, Traffic
from overnight.comm.plan import HiddenRows, Plan, Rows, Whole, ring_bytes
from overnight.comm.sampled import SampledParallel, sampled_hook, sampled_parallel

__all__ = [
    "HiddenRows",
    "Meter",
    "Plan",
    "Rows",
    "SampledParallel",
    "SampledState",
    "Traffic",
    "Whole",
    "join_ranks",
    "ring_bytes",
    "sampled_hook",
    "sampled_parallel",
]
