"""Ranks of an asynchronous run other than 0: they compute, and know nothing of the run folder."""

from contextlib import ExitStack
from functools import partial
from typing import Any

import torch

from overnight.comm.asynchronous import Asynchronous, AsyncWorker, ServerLostError
from overnight.train.asynchronous.place import Place
from overnight.train.asynchronous.share import Share, identities
from overnight.train.build import Parts, build
from overnight.train.distributed import World
from overnight.train.host import StopRequest, catch_signals, keep_freed_memory, set_threads
from overnight.train.run import Run

RETURN_SECONDS = 3.0
"""How long a worker whose session was lost looks for the server before it counts as dead."""
FINISHED = "finished"


def work(run: Run, place: Place, settings: Asynchronous) -> dict[str, Any]:
    """Train with the server until it has enough; returns what a rank has to say of itself.

    Raises:
        UserError: if the server dies; it names the last checkpoint.
    """
    set_threads(run.threads)
    keep_freed_memory()
    parts = build(run, World(place.rank, place.world_size, place.device))
    torch.manual_seed(run.seed + 1 + place.rank)
    with ExitStack() as stack:
        stop = stack.enter_context(catch_signals())
        come = partial(_come, run, place, settings, parts)
        seconds, lost = settings.timeout_seconds, None
        while True:
            worker: AsyncWorker | None = None
            try:
                worker = place.find(come, seconds)
                ended, step = _train(worker, place, parts, stop)
                return _summary(ended, step)
            except ServerLostError as error:
                if stop.signal is not None:
                    return _summary(stop.signal.name, 0)
                if worker is None and lost is None:
                    raise
                # nothing was done since it came back: it will not be better the next time
                if worker is None or worker.pushes == 0:
                    raise lost or _without_server(error, worker) from error
                lost = _without_server(error, worker)
                seconds = min(RETURN_SECONDS, settings.timeout_seconds)


def _come(
    run: Run, place: Place, settings: Asynchronous, parts: Parts, host: str, port: int, wait_seconds: float
) -> AsyncWorker:
    return AsyncWorker.connect(
        host,
        port,
        parts.task,
        rank=place.rank,
        plan=settings.plan,
        timeout_seconds=settings.timeout_seconds,
        wait_seconds=wait_seconds,
        **identities(run, parts, place.world_size),
    )


def _train(worker: AsyncWorker, place: Place, parts: Parts, stop: StopRequest) -> tuple[str, int]:
    """Until the server or a signal ends it: why, and at which step."""
    carry = {name: tensor.to(place.device) for name, tensor in worker.given.items()}
    share = Share(worker, parts.task, parts, place.rank, place.device, carry, int(worker.said["step"]))
    try:
        while worker.ended is None and stop.signal is None:
            if share().asked:
                worker.give(share.carry)
        return worker.ended or (stop.signal.name if stop.signal is not None else FINISHED), share.step
    finally:
        worker.close(share.carry)


def _summary(ended: str, step: int) -> dict[str, Any]:
    finished = ended == FINISHED
    return {
        "state": "finished" if finished else "stopped",
        "reason": "The budget is used up." if finished else f"Stopped by {ended}.",
        "signal": None if finished else ended,
        "step": step,
        "final": None,
    }


def _without_server(error: ServerLostError, worker: AsyncWorker | None) -> ServerLostError:
    if worker is None:
        return error
    checkpoint, folder = worker.told.get("checkpoint"), worker.told.get("folder")
    saved = f"The last checkpoint is {checkpoint}" if checkpoint else "There was no checkpoint yet"
    return ServerLostError(
        f"{error.problem.rstrip('.')}. {saved}.",
        f"Go on with it on every rank: overnight train {folder} --resume." if folder else error.remedy,
    )
