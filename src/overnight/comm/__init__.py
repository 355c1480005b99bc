"""Exchanging gradients or weights between ranks: sampled gradients, local steps, a meter of bytes and seconds."""

from overnight.comm.asynchronous.server import ParameterServer
from overnight.comm.asynchronous.worker import AsyncWorker
from overnight.comm.checks import join_ranks
from overnight.comm.exchange import SampledState
from overnight.comm.local_steps import LocalSteps
from overnight.comm.meter import Meter, Traffic
from overnight.comm.plan import HiddenRows, Plan, Rows, Whole, ring_bytes
from overnight.comm.sampled import SampledParallel, sampled_hook, sampled_parallel

__all__ = [
    "AsyncWorker",
    "HiddenRows",
    "LocalSteps",
    "Meter",
    "ParameterServer",
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
