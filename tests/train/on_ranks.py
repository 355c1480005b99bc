"""Running a function on several ranks over gloo, and getting what each returned."""

import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from train.launching import LOOPBACK, SERVER, free_port


def on_ranks(
    work: Callable[..., Any],
    folder: Path,
    ranks: int,
    *arguments: Any,
    env: dict[str, str] | None = None,
    seconds: float = 120,
) -> list[Any]:
    """``work(*arguments)`` in every rank's process; an exception on one is the result of that rank.

    Args:
        work: a function of an importable module.
        folder: for the results.
        ranks: how many.
        arguments: its arguments.
        env: further environment variables.
        seconds: after so many, ranks that are not done are killed, and that is an error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    given = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    given |= LOOPBACK | (env or {})
    results = [folder / f"rank-{rank}.pt" for rank in range(ranks)]
    children = [
        SERVER.Process(target=_enter, args=(work, path, given | {"RANK": str(rank)}, arguments), daemon=True)
        for rank, path in enumerate(results)
    ]
    for child in children:
        child.start()
    _join(children, seconds)
    return [torch.load(path, weights_only=False) for path in results]


def _join(children: list[multiprocessing.process.BaseProcess], seconds: float) -> None:
    for child in children:
        child.join(seconds)
    hung = [rank for rank, child in enumerate(children) if child.exitcode is None]
    for child in children:
        child.kill()
        child.join()
    assert not hung, f"rank {hung} hung"


def _enter(work: Callable[..., Any], path: Path, env: dict[str, str], arguments: tuple[Any, ...]) -> None:
    os.environ.update(env)
    torch.set_num_threads(1)
    try:
        result = work(*arguments)
    except BaseException as error:
        traceback.print_exc()
        result = error
    torch.save(result, path)
