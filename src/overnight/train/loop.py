"""The loop: data → step → schedule → records, evaluations and checkpoints. To change it, write one of your own: the
parts are for that."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from overnight.errors import UserError
from overnight.metrics import bits_per_byte
from overnight.train.batches import BatchPlan
from overnight.train.budget import Budget
from overnight.train.checkpoint import mark_best, save_checkpoint
from overnight.train.distributed import World
from overnight.train.host import StopRequest
from overnight.train.record import Meter, Sink, StepRecord
from overnight.train.run import Run
from overnight.train.state import State, capture
from overnight.train.step import Stepper


@dataclass
class Loop:
    """One run under way.

    Attributes:
        run: what was asked for.
        folder: the run folder, written by rank 0 only.
        world, plan, stepper, data, budget, state: the parts.
        sinks: take the records, on rank 0.
        stop: set by a signal.
    """

    run: Run
    folder: Path
    world: World
    plan: BatchPlan
    stepper: Stepper
    data: Any
    budget: Budget
    state: State
    sinks: Sequence[Sink]
    stop: StopRequest

    def __post_init__(self) -> None:
        self.peaks = [float(group["lr"]) for group in self.stepper.optimizer.param_groups]
        self.meter = Meter()
        self.saved_step = self.state.step
        self.saved_seconds = self.state.seconds
        self._clock = time.monotonic() - self.state.seconds

    def __call__(self) -> str:
        """Run to the end of the budget or a stop request; returns ``finished`` or ``stopped``."""
        run, state = self.run, self.state
        while self.budget.fraction(state.step, state.seconds) < 1.0:
            self._step()
            on_log = state.step % run.log_every == 0
            stopping = self._control() if on_log or self.world.world_size == 1 else False
            done = self.budget.fraction(state.step, state.seconds)
            if on_log or done >= 1.0:
                self._log()
            if stopping:
                self.save()
                return "stopped"
            if run.evaluations and done < 1.0 and done >= (state.evaluated + 1) / run.evaluations:
                self.evaluate()
            elif self._checkpoint_due():
                self.save()
        self.evaluate()
        return "finished"

    def seconds_left(self) -> float:
        """Estimate of the time to the end of the budget."""
        if self.budget.seconds is not None:
            return max(0.0, self.budget.seconds - self.state.seconds)
        done = self.budget.fraction(self.state.step, self.state.seconds)
        return self.state.seconds * (1.0 / done - 1.0) if done > 0 else math.inf

    def _step(self) -> None:
        run, state = self.run, self.state
        factor = run.schedule.func(self.budget.progress(state.applied), **run.schedule.keywords)
        for group, peak in zip(self.stepper.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.lr = self.stepper.optimizer.param_groups[0]["lr"]
        batches = [
            self.data.at(state.step, first, count).to(self.world.device)
            for first, count in self.plan.lanes(self.world.rank)
        ]
        result = self.stepper(batches, state.carry)
        state.carry = result.carry
        state.step += 1
        state.tokens += result.count * self.world.world_size
        if result.skipped:
            state.skipped += 1
            state.skipped_in_a_row += 1
            if state.skipped_in_a_row >= run.max_skipped:
                raise UserError(
                    f"{state.skipped_in_a_row} steps in a row gave a loss or gradient that is not finite "
                    f"(step {state.step}).",
                    "Try a lower rate, a longer warm-up, a smaller max_norm or --precision fp32.",
                )
        else:
            state.skipped_in_a_row = 0
            state.applied += run.global_batch_size
            self.meter.add(result.total, result.grad_norm, result.count)

    def _control(self) -> bool:
        """Agree over the ranks on the time and on stopping."""
        seconds, wanted = time.monotonic() - self._clock, float(bool(self.stop))
        if self.world.world_size > 1:
            shared = torch.tensor([seconds, wanted], dtype=torch.float64, device=self.world.device)
            self.world.all_reduce(shared, dist.ReduceOp.MAX)
            seconds, wanted = shared.tolist()
        self.state.seconds = seconds
        self.budget.observe(self.state.applied, seconds)
        return wanted > 0

    def _log(self) -> None:
        state = self.state
        reading = self.meter.read(self.run.max_norm)
        sums = torch.tensor([reading["total"], reading["count"]], dtype=torch.float64, device=self.world.device)
        total, count = self.world.all_reduce(sums).tolist()
        scaler = self.stepper.scaler
        record = StepRecord(
            step=state.step,
            samples=state.step * self.run.global_batch_size,
            tokens=state.tokens,
            seconds=round(state.seconds, 3),
            loss=total / count if count else math.nan,
            bits_per_byte=bits_per_byte(total, int(count)),
            lr=self.lr,
            grad_norm=reading["grad_norm"],
            clipped=reading["clipped"],
            skipped=state.skipped,
            tokens_per_s=count / reading["seconds"] if reading["seconds"] > 0 else math.nan,
            loss_scale=scaler.get_scale() if scaler is not None else None,
        )
        for sink in self.sinks:
            sink.step(record)

    def evaluate(self) -> None:
        """Evaluate on rank 0, sample, mark the best, save."""
        run, state = self.run, self.state
        started = time.monotonic()
        state.evaluated += 1
        record: dict[str, Any] | None = None
        if run.evaluate is not None and self.world.is_main:
            model = self.stepper.task.model
            model.eval()
            where = {
                "step": state.step,
                "samples": state.step * run.global_batch_size,
                "tokens": state.tokens,
                "seconds": round(state.seconds, 3),
            }
            record = where | run.evaluate(model=model, autocast_dtype=self.stepper.precision.dtype, final=False)
            for sink in self.sinks:
                sink.evaluation(record)
            if run.sample is not None:
                text = {"step": state.step} | run.sample(model=model)
                for sink in self.sinks:
                    sink.sample(text)
            model.train()
        record = self.world.broadcast_object(record)
        state.last_evaluation = record
        better = record is not None and (state.best is None or record["bits_per_byte"] < state.best["bits_per_byte"])
        if better and record is not None:
            state.best = {"step": record["step"], "bits_per_byte": record["bits_per_byte"]}
        self.meter.exclude(time.monotonic() - started)
        self.save(best=better)

    def save(self, best: bool = False) -> None:
        """Write a checkpoint, unless this step's is there already."""
        started = time.monotonic()
        checkpoint = capture(self.state, self.stepper, self.world, self.budget.total)
        if self.world.is_main:
            folder = self.folder / "checkpoints"
            save_checkpoint(folder, checkpoint, self.run.keep_last)
            if best and self.state.best is not None:
                mark_best(folder, self.state.step, self.state.best["bits_per_byte"])
        self.world.barrier()
        self.saved_step, self.saved_seconds = self.state.step, self.state.seconds
        self.meter.exclude(time.monotonic() - started)

    def _checkpoint_due(self) -> bool:
        every = self.run.checkpoint_steps
        if every and self.state.step % every == 0:
            return True
        # state.seconds changes at control steps only, so that every rank decides alike
        return self.state.seconds - self.saved_seconds >= self.run.checkpoint_minutes * 60
