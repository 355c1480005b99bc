"""Asynchronous training: rank 0 serves the weights, and no rank waits for another (docs/methods/asynchronous.md)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from overnight.comm.asynchronous import Asynchronous, asynchronous
from overnight.train.asynchronous.place import find_place
from overnight.train.asynchronous.serving import serve
from overnight.train.asynchronous.working import work
from overnight.train.build import construct
from overnight.train.run import Run

if TYPE_CHECKING:
    from overnight.train.launch import Options


def is_asynchronous(run: Run) -> bool:
    """Whether a run's ranks train asynchronously."""
    return getattr(run.parallel, "func", None) is asynchronous


def train_asynchronously(run: Run, folder: Path, options: "Options") -> dict[str, Any]:
    """What ``overnight.train.launch.train`` does for such a run: there is no process group."""
    run.check()
    assert run.parallel is not None
    settings: Asynchronous = construct("parallel", run.parallel, seed=run.seed)
    place = find_place(options.device, settings.timeout_seconds)
    if place.rank == 0:
        return serve(run, folder, options, place, settings)
    return work(run, place, settings)
