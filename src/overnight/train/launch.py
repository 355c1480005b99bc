"""From a ``Run`` to a run folder: build the parts, resume if asked, loop, sum up."""

import os
import platform
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from overnight.errors import UserError
from overnight.train.batches import BatchPlan, plan_batches
from overnight.train.budget import Budget
from overnight.train.checkpoint import choose_checkpoint
from overnight.train.console import ConsoleSink, print_prologue
from overnight.train.distributed import World, start_world
from overnight.train.folder import write_json
from overnight.train.host import catch_signals, keep_freed_memory, set_threads
from overnight.train.loop import Loop
from overnight.train.precision import Precision, choose_precision
from overnight.train.record import JsonlSink, Sink, TensorBoardSink
from overnight.train.run import Run
from overnight.train.run_folder import open_run, start_run
from overnight.train.state import State, restore
from overnight.train.step import Stepper


@dataclass(frozen=True)
class Options:
    """How to run, beside what to run.

    Attributes:
        resume: go on from a checkpoint of the folder; without it a folder that holds a run is refused.
        checkpoint: which: ``last``, ``best`` or a step.
        device: ``auto``, ``cpu`` or ``cuda``.
        tensorboard: write event files too.
        quiet: print nothing.
        command: argv, for the record.
    """

    resume: bool = False
    checkpoint: str = "last"
    device: str = "auto"
    tensorboard: bool = False
    quiet: bool = False
    command: tuple[str, ...] = ()


def train(run: Run, folder: str | Path, options: Options | None = None) -> dict[str, Any]:
    """Train, and return what ``summary.json`` says.

    Args:
        run: what to train.
        folder: the run folder; made if it does not exist.
        options: how to run.

    Raises:
        UserError: for settings that cannot work, a folder that holds another run, or a run that keeps giving
            non-finite losses. What was saved stays.
    """
    options = options or Options()
    run.check()
    folder = Path(folder)
    with start_world(options.device) as world, catch_signals() as stop, ExitStack() as stack:
        resuming = world.broadcast_object(open_run(folder, options.resume) if world.is_main else None)
        threads = set_threads(run.threads)
        keep_freed_memory()
        precision = choose_precision(world.device, run.precision)
        plan = plan_batches(run.global_batch_size, world.world_size, run.micro_batch_size)
        data = run.data(lanes=run.global_batch_size, seed=run.seed)
        _agree_on_data(data, world)
        torch.manual_seed(run.seed)
        model = run.model().to(world.device)
        task = run.task(model=model).to(world.device)
        task.train()
        optimizer = _optimizer(run, model)
        torch.manual_seed(run.seed + 1 + world.rank)
        state = State(task.initial_carry(run.global_batch_size // world.world_size))
        stepper = Stepper(task, optimizer, world, precision, run.max_norm)
        budget = Budget(run, data.steps_per_epoch)
        if resuming:
            path = choose_checkpoint(folder, options.checkpoint) if world.is_main else None
            restore(path, state, stepper, world, run.global_batch_size)
            budget.observe(state.applied, state.seconds)
        derived = _derived(run, optimizer, plan, precision, data, budget, threads, world.device)
        sinks: list[Sink] = []
        if world.is_main:
            start_run(folder, run, derived, options.command, state.step if resuming else None)
            sinks.append(JsonlSink(folder))
            if options.tensorboard:
                sinks.append(TensorBoardSink(folder))
        loop = Loop(run, folder, world, plan, stepper, data, budget, state, sinks, stop)
        if world.is_main and not options.quiet:
            print_prologue(run, folder, derived, state.step)
            sinks.append(ConsoleSink(lambda: budget.fraction(state.step, state.seconds), loop.seconds_left))
        for sink in sinks:
            stack.callback(sink.close)
        try:
            ended = loop()
        except UserError as error:
            if world.is_main:
                _write_summary(loop, "failed", error.problem, final=None, baselines=[])
            raise
        if ended == "stopped":
            name = stop.signal.name if stop.signal else "another rank"
            reason = f"Stopped by {name} at step {state.step:,}; saved."
            return _write_summary(loop, "stopped", reason, final=None, baselines=[])
        final: dict[str, Any] | None = None
        baselines: list[dict[str, Any]] = []
        if world.is_main and run.evaluate is not None:
            model.eval()
            final = {"step": state.step} | run.evaluate(model=model, autocast_dtype=precision.dtype, final=True)
            baselines = run.baselines() if run.baselines is not None else []
        return _write_summary(loop, "finished", "The budget is used up.", final, baselines)


def _agree_on_data(data: Any, world: World) -> None:
    """Every host reads its own copy of the data; they must be the same."""
    digest = getattr(data, "digest", None)
    if digest != world.broadcast_object(digest):
        raise UserError(
            f"Rank {world.rank} reads a corpus other than rank 0's (digest {str(digest)[:12]}).",
            "Copy one corpus to every host.",
        )


def _optimizer(run: Run, model: torch.nn.Module) -> torch.optim.Optimizer:
    try:
        optimizer: torch.optim.Optimizer = run.optimizer(params=[p for p in model.parameters() if p.requires_grad])
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(
            f"The optimizer does not accept its settings: {error}.", "See --set optimizer.NAME=VALUE."
        ) from None
    return optimizer


def _derived(
    run: Run,
    optimizer: torch.optim.Optimizer,
    plan: BatchPlan,
    precision: Precision,
    data: Any,
    budget: Budget,
    threads: int,
    device: torch.device,
) -> dict[str, Any]:
    """What follows from the settings, for the record and for the eye."""
    return {
        "parameters": sum(p.numel() for group in optimizer.param_groups for p in group["params"]),
        "batch": str(plan),
        "world_size": plan.world_size,
        "steps_per_epoch": data.steps_per_epoch,
        "total_steps": budget.steps,
        "tokens_per_step": run.global_batch_size * getattr(data, "length", 1),
        "lr": float(optimizer.param_groups[0]["lr"]),
        "precision": precision.name,
        "precision_reason": precision.reason,
        "corpus_digest": getattr(data, "digest", None),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
        "threads": threads,
        "cores": os.cpu_count(),
    }


def _write_summary(
    loop: Loop, ended: str, reason: str, final: dict[str, Any] | None, baselines: list[dict[str, Any]]
) -> dict[str, Any]:
    state = loop.state
    summary = {
        "state": ended,
        "reason": reason,
        "step": state.step,
        "samples": state.step * loop.run.global_batch_size,
        "tokens": state.tokens,
        "seconds": round(state.seconds, 3),
        "skipped": state.skipped,
        "best": state.best,
        "final": final,
        "baselines": baselines,
    }
    if loop.world.is_main:
        write_json(loop.folder / "summary.json", summary)
    return summary
