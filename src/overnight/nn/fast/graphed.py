"""The time loop replayed from a CUDA graph: one launch in the place of thousands.

A graph repeats its launches on the addresses that they had. Either inputs are copied to addresses of the graph's own,
which for p, h and their gradients costs 24 streams of H elements a step and holds 11 of them for good; or a graph is
kept for the addresses that a call came with. This module does the latter. It relies on a training step, which asks the
caching allocator for the same sizes in the same order every time, being given the same memory again; where it is not,
the loop runs launch by launch and nothing is wrong but the speed.

- A loop is captured when it comes to the same addresses, shapes, strides and dtypes for the second time. Shapes that
  vary are so never captured, and all kernels are compiled and all libraries set up by the first time.
- Whatever a call hands on lies in memory of the ordinary allocator, never in the graph's: outputs that are still alive
  keep their addresses from being given out, so no replay can write over them. That holds for activations that wait for
  their backward, for several layers, for checkpoints, and without gradients.
- Only temporaries lie in the graph's memory, shared by the graphs of one stream, which run one after the other.
- The capture concerns this thread only, so that DDP's communication and a data loader may go on in theirs. Gradient
  hooks run outside the loop.
- The allocator's cache is not emptied before a capture, as ``torch.cuda.graph`` does: that would move what is keyed.
"""

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

SWITCH = "OVERNIGHT_CUDA_GRAPHS"
"""Environment variable; 0 switches graphs off."""

Loop = Callable[[], None]


class LoopGraphs:
    """Graphs of loops by what they work on, and the decision which to capture.

    Args:
        capture: makes a replay of a loop, without running it.
        limit: graphs kept; the one unused for longest goes first.
        patience: calls in a row for which a shape may miss its graphs; then it runs without them.

    Example:
        >>> graphs = LoopGraphs(capture=lambda loop: loop)
        >>> x = torch.zeros(2)
        >>> for _ in range(3):
        ...     graphs.run("add one", lambda: x.add_(1), [x])
        >>> x, len(graphs)
        (tensor([3., 3.]), 1)
    """

    def __init__(self, capture: Callable[[Loop], Loop], limit: int = 32, patience: int = 64) -> None:
        self._capture, self._limit, self._patience = capture, limit, patience
        self._replays: OrderedDict[Any, Loop] = OrderedDict()
        self._seen: OrderedDict[Any, None] = OrderedDict()
        self._misses: OrderedDict[Any, int] = OrderedDict()
        self._failed = False
        # backward runs on a thread of its own
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._replays)

    def run(self, name: str, loop: Loop, tensors: Sequence[Tensor | None], stream: int = 0) -> None:
        """Do what ``loop()`` does.

        Args:
            name: of the loop: same name, same shapes, same launches.
            loop: launches only, and writes only to ``tensors``.
            tensors: all that it reads and writes but its own temporaries.
            stream: on which it is launched.
        """
        shape = (name, stream, *(None if x is None else (x.shape, x.stride(), x.dtype, x.device) for x in tensors))
        key = (shape, *(None if x is None else x.data_ptr() for x in tensors))
        with self._lock:
            replay = self._replays.get(key) or self._new(name, loop, shape, key)
            if replay is not None:
                self._replays.move_to_end(key)
                self._misses[shape] = 0
        (replay or loop)()

    def _new(self, name: str, loop: Loop, shape: Any, key: Any) -> Loop | None:
        misses = self._misses[shape] = self._misses.get(shape, 0) + 1
        _forget(self._misses, shape, 8 * self._limit)
        if self._failed or misses > self._patience:
            if misses == self._patience + 1 and not self._failed:
                _log(f"{misses - 1} calls in a row of {name} did not come back to memory of a graph")
            return None
        if key not in self._seen:
            self._seen[key] = None
            _forget(self._seen, key, 8 * self._limit)
            return None
        try:
            replay = self._replays[key] = self._capture(loop)
        except Exception as error:  # a driver refuses a capture by whatever it likes
            self._failed = True
            _log(f"capturing {name} failed: {error}")
            return None
        _forget(self._replays, key, self._limit)
        return replay


def _forget(kept: "OrderedDict[Any, Any]", newest: Any, limit: int) -> None:
    kept.move_to_end(newest)
    while len(kept) > limit:
        kept.popitem(last=False)


def _log(reason: str) -> None:
    logging.getLogger("overnight").warning("The recurrence runs without CUDA graphs: %s.", reason)


_streams: dict[Any, tuple[Any, Any]] = {}


def _capture_on_device(loop: Loop) -> Loop:
    current = torch.cuda.current_stream()
    key = (current.device, current.cuda_stream)
    if key not in _streams:
        _streams[key] = torch.cuda.Stream(), torch.cuda.graph_pool_handle()
    side, pool = _streams[key]
    graph = torch.cuda.CUDAGraph()
    side.wait_stream(current)
    with torch.cuda.stream(side):
        graph.capture_begin(pool=pool, capture_error_mode="thread_local")
        try:
            loop()
        except BaseException:
            with suppress(RuntimeError):  # what went wrong in the loop says more
                graph.capture_end()
            raise
        graph.capture_end()
    current.wait_stream(side)
    replay: Loop = graph.replay
    return replay


_graphs = LoopGraphs(_capture_on_device)


def why_no_graphs(device: torch.device) -> str:
    """Why loops on ``device`` are not captured; empty where they are.

    >>> why_no_graphs(torch.device("cpu"))
    'CUDA graphs need a CUDA device'
    """
    if device.type != "cuda":
        return "CUDA graphs need a CUDA device"
    if os.environ.get(SWITCH, "1") == "0":
        return f"{SWITCH}=0"
    return ""


def run_loop(name: str, loop: Loop, tensors: Sequence[Tensor | None]) -> None:
    """Run a loop on the device of the first tensor, from a graph where that may be; see ``LoopGraphs.run``."""
    first = next(x for x in tensors if x is not None)
    if why_no_graphs(first.device):
        loop()
        return
    with torch.cuda.device(first.device):
        if torch.cuda.is_current_stream_capturing():
            loop()  # in a graph of the caller's
        else:
            _graphs.run(name, loop, tensors, torch.cuda.current_stream().cuda_stream)
