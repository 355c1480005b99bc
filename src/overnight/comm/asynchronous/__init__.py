"""Asynchronous training: a parameter server on gloo's point-to-point, and workers that come and go.

See ``ParameterServer`` and ``AsyncWorker``; ``asynchronous`` is the trainer's component.
"""

from overnight.comm.asynchronous.component import Asynchronous, asynchronous
from overnight.comm.asynchronous.link import ServerLostError
from overnight.comm.asynchronous.server import Counts, ParameterServer, Push
from overnight.comm.asynchronous.staleness import Staleness
from overnight.comm.asynchronous.worker import Answer, AsyncWorker

__all__ = [
    "Answer",
    "AsyncWorker",
    "Asynchronous",
    "Counts",
    "ParameterServer",
    "Push",
    "ServerLostError",
    "Staleness",
    "asynchronous",
]
