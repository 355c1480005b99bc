"""Rank 0 of an asynchronous run: it holds the server, works like the others, and keeps the run folder."""

import copy
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from overnight.comm.asynchronous import Asynchronous
from overnight.errors import UserError
from overnight.train.asynchronous.place import Place
from overnight.train.asynchronous.server_loop import ServerLoop
from overnight.train.budget import Budget
from overnight.train.build import build
from overnight.train.console import ConsoleSink
from overnight.train.distributed import World
from overnight.train.ending import run_to_end
from overnight.train.host import catch_signals, keep_freed_memory, set_threads
from overnight.train.record import Sink
from overnight.train.run import Run
from overnight.train.run_folder import open_run
from overnight.train.state import State, restore
from overnight.train.step import Stepper

if TYPE_CHECKING:
    from overnight.train.launch import Options

LEAVE_SECONDS = 30.0
"""How long rank 0 waits at its end for the others to hear of it."""


def serve(run: Run, folder: Path, options: "Options", place: Place, settings: Asynchronous) -> dict[str, Any]:
    """Train around a server on this rank, and return what ``summary.json`` says.

    Raises:
        UserError: as ``overnight.train.launch.train``.
    """
    from overnight.train.launch import decided_options, derived, open_records

    with ExitStack() as stack:
        resuming = open_run(folder, options.resume, stack)
        threads = set_threads(run.threads)
        keep_freed_memory()
        alone, world = World(0, 1, place.device), World(0, place.world_size, place.device)
        parts = build(run, world)
        local = copy.deepcopy(parts.task)
        torch.manual_seed(run.seed + 1)
        state = State(parts.task.initial_carry(run.global_batch_size))
        stepper = Stepper(parts.task, parts.optimizer, alone, parts.precision, run.max_norm)
        budget = Budget(run, parts.data.steps_per_epoch)
        if resuming:
            decided = decided_options(run)
            restore(folder, options.checkpoint, state, stepper, alone, run.global_batch_size, decided, parts.ema)
            budget.observe(state.applied, state.seconds)
        sinks: list[Sink] = []
        stop = stack.enter_context(catch_signals())
        loop = ServerLoop(
            run, folder, alone, parts.plan, stepper, parts.data, budget, state, sinks, stop, parts.peaks, parts.ema
        )
        # before the folder has a run: it refuses plans that do not fit and ports that are taken
        loop.open(place, settings, local, parts)
        stack.callback(loop.server.close, LEAVE_SECONDS)
        try:
            says = derived(run, parts, budget, threads, world)
            open_records(run, folder, options, says, state if resuming else None, sinks, stack)
            if not options.quiet:
                sinks.append(ConsoleSink(lambda: budget.fraction(state.step, state.seconds), loop.seconds_left))
                stack.callback(sinks[-1].close)
            loop.gather(settings.start_seconds)
            return run_to_end(loop)
        except UserError as error:
            loop.server.end("failed", (error.problem, error.remedy))
            raise
        except BaseException:
            loop.server.end("failed", ("Rank 0 has failed.", "Look for its error."))
            raise
