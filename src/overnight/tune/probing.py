"""`overnight probe`: from a tuned baseline, train a short while and measure what its scaling depends on."""

import math
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.scaling.critical_batch import CriticalBatch, Fork
from overnight.scaling.throughput import Throughput, measure_throughput
from overnight.train.batches import plan_batches
from overnight.train.budget import Budget
from overnight.train.build import Parts, build, construct
from overnight.train.distributed import World, start_world
from overnight.train.host import keep_freed_memory, set_threads
from overnight.train.launch import decided_options
from overnight.train.run import Run
from overnight.train.state import State, restore
from overnight.train.step import Stepper
from overnight.tune.baseline import optimizer_of
from overnight.tune.branching import Brancher
from overnight.tune.limits import largest_data_batch
from overnight.tune.measurements import Measurements, micro_batches
from overnight.tune.record import Noise, Probe

STEPS, LEAST_STEPS, TIMED_STEPS = 400, 32, 5
TELL_SECONDS = 15.0
WINDOW = 64
"""Measured steps that a noise scale is read from."""
THROUGHPUT_REPEATS = 3
DIVERGED = 2.0


@dataclass(frozen=True)
class Probing:
    """How to probe.

    Attributes:
        steps, minutes: how long to train; 400 steps if neither is given. The second half is measured.
        folder: a run's, from whose checkpoint to go on; None begins anew.
        checkpoint: which: ``last``, ``best`` or a step.
        device: ``auto``, ``cpu`` or ``cuda``.
        throughput_seconds: about how long to try batches; 0 leaves it out.
        largest_batch: at which trying ends; None for the data's, the memory's or the time's.
        branches: also look for the critical batch by branched runs.
        branch_steps: of the branch at the baseline's batch; None for half as many as were trained.
    """

    steps: int | None = None
    minutes: float | None = None
    folder: Path | None = None
    checkpoint: str = "last"
    device: str = "auto"
    throughput_seconds: float = 60.0
    largest_batch: int | None = None
    branches: bool = False
    branch_steps: int | None = None

    def check(self) -> None:
        """Raise UserError for values that cannot work."""
        if self.steps is not None and self.minutes is not None:
            raise UserError(
                f"A probe has one length; given: {self.steps} steps and {self.minutes:g} minutes.", "Give one."
            )
        if self.steps is not None and self.steps < LEAST_STEPS:
            raise UserError(f"{self.steps} steps are too few to measure noise.", f"Take --steps {LEAST_STEPS} or more.")
        numbers = {"minutes": self.minutes, "branch-steps": self.branch_steps, "largest-batch": self.largest_batch}
        for name, value in numbers.items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"--{name} {value} cannot work.", "Take a number above 0.")
        if not (math.isfinite(self.throughput_seconds) and self.throughput_seconds >= 0):
            raise UserError(f"--throughput-seconds {self.throughput_seconds} cannot work.", "Take 0 for not, or more.")
        if self.branch_steps is not None and not self.branches:
            raise UserError(f"--branch-steps {self.branch_steps} is for branches.", "Add --branches.")
        if self.checkpoint != "last" and self.folder is None:
            raise UserError(f"--checkpoint {self.checkpoint} is a run's.", "Name a run folder to go on from.")


def probe(run: Run, how: Probing | None = None, tell: Callable[[str], None] = lambda line: None) -> Probe:
    """Train a short while with the measurements on. Under torchrun every rank must call it. Nothing is written.

    Args:
        run: the tuned baseline.
        how: settings.
        tell: takes a line on what is being done, on rank 0.

    Raises:
        UserError: for settings that cannot work, noise that cannot be measured, or a model that has diverged.
    """
    how = how or Probing()
    how.check()
    with start_world(how.device, group=False) as world:
        run, parts, state, stepper, budget = _prepared(run, how, world)
        say = tell if world.is_main else lambda line: None
        try:
            training = _Training(run, parts, state, stepper, budget, world)
            raw, adam, moves, clip, measured = _measured(training, how, say)
            parallel_free = World(0, 1, world.device)
            curve = _throughput(run, parts, how, parallel_free, say)
            critical = _critical(run, parts, state, how, world, say)
        finally:
            stepper.close()
        cuda = world.device.type == "cuda"
        return Probe(
            recipe=run.recipe,
            global_batch_size=run.global_batch_size,
            micro_batch_size=parts.plan.micro_batch_size,
            world_size=world.world_size,
            device=torch.cuda.get_device_name(world.device) if cuda else platform.machine(),
            precision=parts.precision.name,
            step=state.step,
            measured_steps=measured,
            loss=training.losses(),
            parameters=sum(p.numel() for p in parts.task.model.parameters() if p.requires_grad),
            samples_per_epoch=float(parts.data.steps_per_epoch * run.global_batch_size),
            targets_per_sample=training.targets / (training.made * run.global_batch_size),
            noise=Noise.of(raw),
            preconditioned=None if adam is None else Noise.of(adam),
            relative_step=_moved(moves.relative_step),
            layers={name: _moved(value) for name, value in moves.layers.items()},
            matrices=tuple(
                name for name, p in parts.task.model.named_parameters() if p.ndim > 1 and name in moves.layers
            ),
            clip=clip,
            throughput=curve,
            critical_batch=None if critical is None else _as_noise(critical),
            optimizer=optimizer_of(run),
            model=run.to_json()["model"],
        )


def _prepared(run: Run, how: Probing, world: World) -> tuple[Run, Parts, State, Stepper, Budget]:
    if run.parallel is not None:
        raise UserError(
            "Noise is measured from whole gradients, and this run exchanges others.", "Probe it without --parallel."
        )
    if run.adapt is not None:
        raise UserError(
            "This run sets its rate as it trains, and measures its noise itself.",
            "Probe the recipe without --rule date.",
        )
    world.together(run.check)
    plan_batches(run.global_batch_size, world.world_size, None)
    share = run.global_batch_size // world.world_size
    run = replace(run, micro_batch_size=micro_batches(share, run.micro_batch_size, world.world_size))
    set_threads(run.threads)
    keep_freed_memory()
    parts = world.together(lambda: build(run, world))
    torch.manual_seed(run.seed + 1 + world.rank)
    state = State(parts.task.initial_carry(share))
    stepper = world.alike(lambda: Stepper(parts.task, parts.optimizer, world, parts.precision, run.max_norm))
    budget = Budget(run, parts.data.steps_per_epoch)
    if how.folder is not None:
        decided = decided_options(run)
        restore(how.folder, how.checkpoint, state, stepper, world, run.global_batch_size, decided, parts.ema)
        budget.observe(state.applied, state.seconds)
    first, count = parts.plan.lanes(world.rank)[0]
    stepper.settle(parts.data.at(0, first, count).to(world.device), parts.task.initial_carry(count))
    return run, parts, state, stepper, budget


class _Training:
    """The loop without records, evaluations and checkpoints."""

    def __init__(self, run: Run, parts: Parts, state: State, stepper: Stepper, budget: Budget, world: World) -> None:
        self.run, self.parts, self.state, self.stepper = run, parts, state, stepper
        self.budget, self.world = budget, world
        self.made, self.targets, self.skipped = 0, 0, 0
        self._totals: list[Tensor] = []
        self._counts: list[int] = []

    def step(self) -> None:
        run, state = self.run, self.state
        factor = run.schedule.func(self.budget.progress(state.applied), **run.schedule.keywords)
        for group, peak in zip(self.parts.optimizer.param_groups, self.parts.peaks, strict=True):
            group["lr"] = peak * factor
        batches = [
            self.parts.data.at(state.step, first, count).to(self.world.device)
            for first, count in self.parts.plan.lanes(self.world.rank)
        ]
        result = self.stepper(batches, state.carry)
        state.carry, state.step = result.carry, state.step + 1
        self.made += 1
        self.targets += result.global_count
        self._totals.append(result.total)
        self._counts.append(result.count)
        if result.skipped:
            self.skipped += 1
            state.skipped_in_a_row += 1
        else:
            state.applied += run.global_batch_size
            state.skipped_in_a_row = 0
        # float16 finds its loss scale by skipping
        if state.skipped_in_a_row >= min(run.max_skipped, LEAST_STEPS):
            self._refuse(f"the last {state.skipped_in_a_row} steps had a loss or a gradient that is not finite")

    def losses(self) -> tuple[float, float]:
        """Mean nats a target of this rank, over the first and over the last tenth of the steps made."""
        part = max(1, self.made // 10)
        totals = torch.stack(self._totals).double().cpu()
        means = [
            float(totals[chosen].sum()) / max(1, sum(self._counts[chosen]))
            for chosen in (slice(None, part), slice(-part, None))
        ]
        return means[0], means[1]

    def check(self) -> None:
        """Whether what was measured is a model that learns."""
        begun, ended = self.losses()
        if not math.isfinite(ended) or ended > DIVERGED * begun:
            self._refuse(f"its loss went from {begun:.4g} to {ended:.4g} nats a target within {self.made} steps")

    def _refuse(self, why: str) -> None:
        raise UserError(
            f"The model has diverged: {why}, so nothing of it can be measured.",
            "Probe an earlier checkpoint (--checkpoint best), or lower the rate.",
        )


def _measured(training: _Training, how: Probing, say: Callable[[str], None]) -> tuple[Any, Any, Any, Any, int]:
    """Train; the second half is measured, when the first has brought the moments and the warm-up on their way."""
    steps = how.steps or STEPS
    if how.minutes is not None:
        steps = _steps_in(training, how.minutes)
    half = steps // 2
    every = max(1, min(10, (steps - half) // WINDOW))
    run = training.run
    say(
        f"training {steps:,} steps at batch {run.global_batch_size:,} ({training.parts.plan}), the second half measured"
    )
    tell = _Teller(training, steps, say)
    for _ in range(max(0, half - training.made)):
        training.step()
        tell()
    measurements = Measurements(
        training.parts.task.model.named_parameters(),
        training.parts.optimizer,
        global_batch_size=run.global_batch_size,
        max_norm=run.max_norm,
        every=every,
    )
    training.stepper.observer = measurements
    try:
        for _ in range(steps - half):
            training.step()
            tell()
        training.check()
        raw, adam, moves, clip = measurements.read()
        return raw, adam, moves, clip, raw.steps
    finally:
        training.stepper.observer = None
        measurements.close()


class _Teller:
    """A line now and then on how far a probe has come."""

    def __init__(self, training: _Training, steps: int, say: Callable[[str], None]) -> None:
        self._training, self._steps, self._say = training, steps, say
        self._first = training.made
        self._began = self._told = time.monotonic()

    def __call__(self) -> None:
        now, made = time.monotonic(), self._training.made
        if now - self._told >= TELL_SECONDS and made < self._steps:
            self._told = now
            left = (now - self._began) / (made - self._first) * (self._steps - made)
            _, loss = self._training.losses()
            self._say(f"step {made:,} of {self._steps:,}, {loss:.3f} nats, about {left:,.0f} s left")


def _steps_in(training: _Training, minutes: float) -> int:
    """As many as fit, by the time that the first few take; the slowest rank's, so that all make as many."""
    for _ in range(TIMED_STEPS):
        began = time.monotonic()
        training.step()
    seconds = torch.tensor(time.monotonic() - began, dtype=torch.float64, device=training.world.device)
    slowest = float(training.world.all_reduce(seconds, torch.distributed.ReduceOp.MAX))
    return max(LEAST_STEPS, int(60.0 * minutes / max(slowest, 1e-6)))


def _throughput(run: Run, parts: Parts, how: Probing, alone: World, say: Callable[[str], None]) -> Throughput | None:
    """Samples a second against batch, of one device by itself; the state is put back."""
    if how.throughput_seconds <= 0:
        return None
    stepper = Stepper(parts.task, parts.optimizer, alone, parts.precision, run.max_norm)
    fork = Fork(parts.task, parts.optimizer)
    kept: dict[int, Any] = {}

    def step(batch: int) -> None:
        if batch not in kept:
            kept.clear()
            kept[batch] = construct("data", run.data, lanes=batch, seed=run.seed)
        data, carry = kept[batch], parts.task.initial_carry(batch)
        stepper([data.at(0, 0, batch).to(alone.device)], carry)

    smallest = parts.plan.micro_batch_size
    most = how.largest_batch or _within(step, smallest, how.throughput_seconds)
    largest = min(most, largest_data_batch(run, max(most, run.global_batch_size)))
    say(f"samples a second from batch {smallest:,} to {max(smallest, largest):,}")
    try:
        return measure_throughput(
            step,
            smallest=smallest,
            largest=max(smallest, largest),
            repeats=THROUGHPUT_REPEATS,
            device=alone.device,
        )
    finally:
        fork.restore()


def _within(step: Callable[[int], object], batch: int, seconds: float) -> int:
    """The batch at which doubling takes about so many seconds, if each doubling doubles the time."""
    took: Sequence[float] = []
    for _ in range(2):
        began = time.perf_counter()
        step(batch)
        took = [*took, time.perf_counter() - began]
    spent = 2.0 * (THROUGHPUT_REPEATS + 1) * max(min(took), 1e-6)
    doublings = max(1, math.floor(math.log2(max(2.0, seconds / spent))))
    return batch << doublings


def _critical(
    run: Run, parts: Parts, state: State, how: Probing, world: World, say: Callable[[str], None]
) -> CriticalBatch | None:
    if not how.branches:
        return None
    if world.world_size > 1:
        raise UserError("Branches run in one process.", "Probe without torchrun, or without --branches.")
    steps = how.branch_steps or max(16, (how.steps or STEPS) // 2)
    say(f"branches at 1, 2, 4 and 8 times the batch, from step {state.step:,}")
    return Brancher(run, parts, state.step, state.carry, world.device).probe(steps)


def _as_noise(found: CriticalBatch) -> Noise:
    law = found.law
    usable = law.low > 0 and law.high <= 4.0 * law.low
    return Noise(law.critical_batch, law.low, law.high, usable)


def _moved(relative_step: float) -> float:
    """Not a number stands for steps of rate 0, such as those after a run's end: they move nothing."""
    return relative_step if math.isfinite(relative_step) else 0.0
