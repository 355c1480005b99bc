"""From a ``Run`` to a run folder: build the parts, resume if asked, loop, sum up."""

import os
import platform
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from overnight.errors import UserError
from overnight.metrics import metric_of
from overnight.train.adapt import build_adapt
from overnight.train.asynchronous import is_asynchronous, train_asynchronously
from overnight.train.boost import check_ranks, with_boost
from overnight.train.budget import Budget
from overnight.train.build import Parts, average_of, build, construct
from overnight.train.components import Component
from overnight.train.console import ConsoleSink, print_prologue
from overnight.train.distributed import World, start_world
from overnight.train.ending import run_to_end
from overnight.train.host import catch_signals, keep_freed_memory, set_threads
from overnight.train.loop import Loop
from overnight.train.parallel import maker, settings_digest
from overnight.train.record import JsonlSink, Sink, TensorBoardSink, summary_writer
from overnight.train.run import Run
from overnight.train.run_folder import open_run, start_run
from overnight.train.sharded import check_shared
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
            non-finite losses. What was saved stays. Where one of several ranks has the reason, the others raise its
            twin ``ElsewhereError``.
    """
    options, folder = options or Options(), Path(folder)
    if is_asynchronous(run):
        if run.start is not None:
            raise UserError("A run with --parallel async begins anew.", "Leave out start, or --parallel.")
        check_ranks(run, synchronous=False)
        return train_asynchronously(run, folder, options)
    with start_world(options.device, group=run.parallel is not None) as world, ExitStack() as stack:
        world.together(run.check)
        resuming = bool(world.broadcast_object(world.on_main(lambda: open_run(folder, options.resume, stack))))
        threads = set_threads(run.threads)
        keep_freed_memory()
        parts = world.together(lambda: with_boost(run, build(run, world), world))
        _agree(run, parts, world)
        torch.manual_seed(run.seed + 1 + world.rank)
        state = State(parts.task.initial_carry(run.global_batch_size // world.world_size))
        make = maker(run, parts.data)
        stepper = world.alike(lambda: Stepper(parts.task, parts.optimizer, world, parts.precision, run.max_norm, make))
        stack.callback(stepper.close)
        if stepper.parallel.sharded:
            world.together(lambda: _check_whole_gradients(run))
            # the average was of parameters that have been shared out since
            parts = replace(parts, ema=average_of(run, parts.task.model))
        world.together(lambda: check_ranks(run, stepper.parallel.synchronous))
        first, count = parts.plan.lanes(world.rank)[0]
        stepper.settle(parts.data.at(0, first, count).to(world.device), parts.task.initial_carry(count))
        budget = Budget(run, parts.data.steps_per_epoch)
        adapt = world.alike(lambda: build_adapt(run, parts, state, stepper, budget))
        if adapt is not None:
            stack.callback(adapt.close)
        if resuming:
            decided = decided_options(run)
            restore(folder, options.checkpoint, state, stepper, world, run.global_batch_size, decided, parts.ema, adapt)
            budget.observe(state.applied, state.seconds)
        elif run.start is not None:
            _start(run.start, parts, world)
        sinks: list[Sink] = []

        resumed = state if resuming else None
        world.on_main(
            lambda: open_records(
                run, folder, options, derived(run, parts, budget, threads, world), resumed, sinks, stack
            )
        )
        if stepper.parallel.sharded:
            world.together(lambda: check_shared(folder / "run.json"))
        stop = stack.enter_context(catch_signals())
        loop = Loop(
            run,
            folder,
            world,
            parts.plan,
            stepper,
            parts.data,
            budget,
            state,
            sinks,
            stop,
            parts.peaks,
            parts.ema,
            adapt,
        )
        if adapt is not None and not resuming:
            loop.tell(adapt.decisions)
        if world.is_main and not options.quiet:
            shown = ConsoleSink(lambda: budget.fraction(state.step, state.seconds), loop.seconds_left)
            _add(sinks, shown, stack)
        return run_to_end(loop)


def _check_whole_gradients(run: Run) -> None:
    """Raise a UserError if something looks at the gradients that FSDP does not put together."""
    for name in ("adapt", "boost"):
        if getattr(run, name, None) is not None:
            raise UserError(
                f"{name} looks at whole gradients, and under --parallel fsdp no rank has them.",
                f"Train with --parallel ddp, or without {name} (a --rule such as legw).",
            )


def _start(start: Component, parts: Parts, world: World) -> None:
    """Put in what the run begins with; an average of the weights begins there too."""
    model = parts.task.model
    world.together(lambda: construct("start", start, model=model, optimizer=parts.optimizer))
    if parts.ema is not None:
        parts.ema.load(dict(model.named_parameters()))


def open_records(
    run: Run,
    folder: Path,
    options: Options,
    derived: dict[str, Any],
    resumed: State | None,
    sinks: list[Sink],
    stack: ExitStack,
) -> None:
    """Open the run folder, and the sinks that write there; print what is about to be trained.

    Args:
        run, folder, options: as ``train`` takes them.
        derived: what follows from the settings.
        resumed: where a resumed run goes on; None for one that starts.
        sinks: takes what is opened.
        stack: closes it.
    """
    if options.tensorboard:
        summary_writer()
    start_run(folder, run, derived, options.command, options.resume, resumed, stack)
    step = resumed.step if resumed is not None else 0
    _add(sinks, JsonlSink(folder), stack)
    if options.tensorboard:
        _add(sinks, TensorBoardSink(folder, step), stack)
    if not options.quiet:
        print_prologue(run, folder, derived, step)


def _add(sinks: list[Sink], sink: Sink, stack: ExitStack) -> None:
    sinks.append(sink)
    stack.callback(sink.close)


def decided_options(run: Run) -> set[str]:
    """Options of the optimizer that the run decides, whatever a checkpoint has."""
    groups = set(run.param_groups.keywords) if run.param_groups is not None else set()
    return (set(run.optimizer.keywords) | groups) - {"lr"}


def _agree(run: Run, parts: Parts, world: World) -> None:
    """Every host reads its own copy of the data and chooses by its own devices; both must be the same."""
    digest, precision = getattr(parts.data, "digest", None), parts.precision.name
    model = settings_digest(run, parts.task.model)
    main_digest, main_precision, main_model = world.broadcast_object((digest, precision, model))

    def compare() -> None:
        if digest != main_digest:
            raise UserError(
                f"Rank {world.rank} reads a corpus other than rank 0's (digest {str(digest)[:12]}).",
                "Copy one corpus to every host.",
            )
        if precision != main_precision:
            raise UserError(
                f"Rank {world.rank} would train in {precision} and rank 0 in {main_precision}.",
                "Say which with --precision.",
            )
        if model != main_model:
            raise UserError(
                f"Rank {world.rank} would train another model than rank 0, or exchange it in another way.",
                "Start every rank with the same command.",
            )

    world.together(compare)


def derived(run: Run, parts: Parts, budget: Budget, threads: int, world: World) -> dict[str, Any]:
    """What follows from the settings, for the record and for the eye."""
    cuda = world.device.type == "cuda"
    metric, vocabulary = metric_of(parts.task), getattr(parts.data, "vocabulary_digest", None)
    return {
        "parameters": sum(p.numel() for group in parts.optimizer.param_groups for p in group["params"]),
        "batch": str(parts.plan),
        "world_size": world.world_size,
        "steps_per_epoch": parts.data.steps_per_epoch,
        "total_steps": budget.steps,
        "tokens_per_step": run.global_batch_size * getattr(parts.data, "length", 1),
        "lr": parts.peaks[0],
        "precision": parts.precision.name,
        "precision_reason": parts.precision.reason,
        "corpus_digest": getattr(parts.data, "digest", None),
        **({"vocabulary_digest": vocabulary} if vocabulary else {}),
        **({} if metric.name == "bits_per_byte" else {"metric": metric.name, "counted": metric.counted}),
        "device": torch.cuda.get_device_name(world.device) if cuda else platform.machine(),
        "threads": threads,
        "cores": os.cpu_count(),
    }
