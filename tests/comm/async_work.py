"""Processes of the tests of a parameter server: they are killed, so they are real ones."""

import multiprocessing
import time
from typing import Any

import torch
from torch import Tensor, nn

from overnight.comm import AsyncWorker, ParameterServer

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["overnight.comm.asynchronous", "torch._dynamo"])


def tiny(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def points(step: int) -> Tensor:
    return torch.randn(5, 4, generator=torch.Generator().manual_seed(step))


def start(work: Any, *arguments: Any) -> Any:
    process = SERVER.Process(target=work, args=arguments, daemon=True)
    process.start()
    return process


def push_for_ever(port: int, rank: int) -> None:
    """A worker that works until it is killed."""
    model = tiny()
    worker = AsyncWorker.connect("127.0.0.1", port, model, rank=rank, timeout_seconds=30)
    while True:
        worker.pull()
        model(points(rank)).square().mean().backward()
        worker.push()
        time.sleep(0.01)


def serve_for_ever(pipe: Any) -> None:
    """A server that is there until it is killed."""
    model = tiny()
    server = ParameterServer(model, torch.optim.SGD(model.parameters(), lr=0.1), host="127.0.0.1", timeout_seconds=30)
    pipe.send(server.port)
    time.sleep(600)
