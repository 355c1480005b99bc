"""Bytes and seconds of any DDP communication hook."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Hook = Callable[[Any, dist.GradBucket], torch.futures.Future[Tensor]]  # type: ignore[name-defined]


@dataclass(frozen=True)
class Traffic:
    """What was exchanged since the last reading.

    Attributes:
        steps: backwards with an exchange.
        calls: collectives by name, such as ``allreduce_``.
        payload_bytes: of this rank's tensors given to collectives.
        wire_bytes: that this rank sends if collectives go around a ring: 2 (n - 1) / n of an all-reduce's payload,
            n - 1 times an all-gather's, (n - 1) / n of that of others.
        busy_seconds: in which at least one exchange was under way.
        waiting_seconds: of these, those after a step's last exchange had been started, with nothing left to compute,
            and those of exchanges that hold up their thread.
    """

    steps: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    payload_bytes: int = 0
    wire_bytes: float = 0.0
    busy_seconds: float = 0.0
    waiting_seconds: float = 0.0


class Meter:
    """Counts what a hook exchanges, by watching collectives while it runs.

    Seconds are from the hook's call to when its future is done. With NCCL a future is done when its kernel is launched,
    so there only bytes are right.

    >>> meter = Meter()
    >>> hook = meter.wrap(lambda state, bucket: state)      # ddp.register_comm_hook(state, hook)
    >>> meter.read().payload_bytes
    0
    """

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._under_way, self._since, self._started, self._waited = 0, 0.0, 0.0, 0.0
        self._clear()

    def wrap(self, hook: Hook, *, steps: bool = True, callbacks: bool = True) -> Hook:
        """The same hook, counted.

        Args:
            hook: any.
            steps: the first bucket begins a step; otherwise ``step`` is called.
            callbacks: collectives may be issued by callbacks of futures too, as torch's PowerSGD does; False saves the
                time to look at what callbacks do.
        """

        def metered(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:  # type: ignore[name-defined]
            if steps and bucket.index() == 0:
                self.step()
            with _Following(self) if callbacks else nullcontext(), self.counting():
                future = hook(state, bucket)
            self.watch(future)
            return future

        metered.__name__ = getattr(hook, "__name__", "hook")
        metered.__qualname__ = getattr(hook, "__qualname__", "hook")
        return metered

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the collectives of this thread."""
        self._begin()
        try:
            with _Watch(self):
                yield
        finally:
            self._end()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time as waiting: of an exchange that holds up its thread, wherever in the step."""
        began = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                # what is under way waits from now on, if nothing else is begun
                self._started = time.perf_counter()
                self._waiting += self._started - began

    def watch(self, future: torch.futures.Future[Any]) -> None:
        """Count the time until this is done."""
        self._begin()
        future.add_done_callback(lambda _: self._end())

    def step(self) -> None:
        """A step begins."""
        with self._lock:
            self._close()
            self._steps += 1

    def read(self) -> Traffic:
        """What was counted since the last reading; call it when no exchange is under way."""
        with self._lock:
            # backward may return a moment before the callbacks of what it waited for
            self._lock.wait_for(lambda: self._under_way == 0, timeout=1.0)
            self._close()
            traffic = Traffic(self._steps, dict(self._calls), self._payload, self._wire, self._busy, self._waiting)
            self._clear()
        return traffic

    def _clear(self) -> None:
        self._steps, self._payload, self._wire, self._busy, self._waiting = 0, 0, 0.0, 0.0, 0.0
        self._calls: Counter[str] = Counter()

    def _close(self) -> None:
        self._waiting += self._waited
        self._waited = 0.0

    def _begin(self) -> None:
        with self._lock:
            self._started, self._waited = time.perf_counter(), 0.0
            if self._under_way == 0:
                self._since = self._started
            self._under_way += 1

    def _end(self) -> None:
        with self._lock:
            ended = time.perf_counter()
            self._under_way -= 1
            self._waited = ended - self._started
            if self._under_way == 0:
                self._busy += ended - self._since
                self._lock.notify_all()

    def _count(self, name: str, payload: int, ranks: int) -> None:
        with self._lock:
            self._calls[name] += 1
            self._payload += payload
            self._wire += payload * _sent(name, ranks)


def _sent(name: str, ranks: int) -> float:
    if name.startswith("allreduce"):
        return 2 * (ranks - 1) / ranks
    return float(ranks - 1) if "gather" in name else (ranks - 1) / ranks


class _Watch(TorchDispatchMode):
    def __init__(self, meter: Meter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.meter = meter

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            group = next(dist.ProcessGroup.unbox(value) for value in args if isinstance(value, torch.ScriptObject))
            # a gather's first argument is where it writes
            given = args[1] if "gather" in func.__name__ and len(args) > 1 else args[0]
            self.meter._count(func.__name__.partition(".")[0], _bytes(given), group.size())
        return func(*args, **(kwargs or {}))


class _Following:
    """Meanwhile, callbacks that this thread gives to futures are made to be counted when they run, in any thread.

    A dispatch mode is of one thread, and torch has no other place that all collectives pass.
    """

    futures: Any = torch._C.Future
    then = vars(torch._C.Future)["then"]
    lock = threading.Lock()
    scopes = 0
    of_thread = threading.local()

    def __init__(self, meter: Meter) -> None:
        self.meter = meter

    def __enter__(self) -> None:
        with self.lock:
            _Following.scopes += 1
            self.futures.then = _followed
        self.before = getattr(self.of_thread, "meter", None)
        self.of_thread.meter = self.meter

    def __exit__(self, *_: object) -> None:
        self.of_thread.meter = self.before
        with self.lock:
            _Following.scopes -= 1
            if _Following.scopes == 0:
                self.futures.then = vars(_Following)["then"]


def _followed(future: Any, callback: Callable[[Any], Any]) -> Any:
    meter = getattr(_Following.of_thread, "meter", None)
    plain = vars(_Following)["then"].__get__(future)
    return plain(callback if meter is None else partial(_counted, meter, callback))


def _counted(meter: Meter, callback: Callable[[Any], Any], future: Any) -> Any:
    if (
        getattr(_Following.of_thread, "meter", None) is meter
    ):  # at once, since the future was done: it is counted anyhow
        return callback(future)
    with _Following(meter), _Watch(meter):
        return callback(future)


def _bytes(tensors: Any) -> int:
    if isinstance(tensors, Tensor):
        values = tensors._values() if tensors.is_sparse else tensors
        return values.numel() * values.element_size()
    return sum(_bytes(each) for each in tensors)
