"""A parameter server and its workers for the length of a test, none of which waits for long."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from comm.async_work import points
from torch import nn

from overnight.comm import AsyncWorker, ParameterServer

SECONDS = 20.0


@contextmanager
def serving(model: nn.Module, optimizer: Any = None, **options: Any) -> Iterator[ParameterServer]:
    chosen = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    server = ParameterServer(model, chosen, **({"timeout_seconds": SECONDS} | options))
    try:
        yield server
    finally:
        server.close(0.0)


def connect(server: ParameterServer, model: nn.Module, rank: int = 1, **options: Any) -> AsyncWorker:
    return AsyncWorker.connect(
        "127.0.0.1", server.port, model, rank=rank, **({"timeout_seconds": SECONDS, "plan": server.plan} | options)
    )


def until(found: Callable[[], bool], seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


def gradient(model: nn.Module, step: int, scale: float = 1.0) -> None:
    (scale * model(points(step)).square().mean()).backward()
