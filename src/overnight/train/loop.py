"""The loop: data → step → schedule → records, evaluations and checkpoints. To change it, write one of your own: the
parts are for that."""

import math
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from overnight.errors import UserError
from overnight.metrics import METRICS, metric_of
from overnight.train.adapt import Adapt
from overnight.train.average import WeightAverage
from overnight.train.batches import BatchPlan
from overnight.train.boost import boost, boost_batch
from overnight.train.budget import Budget
from overnight.train.checkpoint import flatten_optimizer
from overnight.train.distributed import World
from overnight.train.host import StoppedError, StopRequest
from overnight.train.record import Meter, Sink, StepRecord
from overnight.train.run import Run
from overnight.train.saving import save_on_ranks
from overnight.train.sharded import Chosen, for_evaluation
from overnight.train.state import Apart, State, capture
from overnight.train.step import Stepper

TRAFFIC = ("sent_bytes", "computing_seconds", "waiting_seconds")


@dataclass
class Loop:
    """One run under way.

    Attributes:
        run: what was asked for.
        folder: the run folder, written by rank 0 only.
        world, plan, stepper, data, budget, state: the parts.
        sinks: take the records, on rank 0.
        stop: set by a signal on this rank.
        peaks: peak rates of the optimizer's parameter groups.
        ema: the average of the weights, which is evaluated in their place; None for none.
        adapt: sets the rates in the place of the schedule, and how much of a batch is one update; None for neither.
        stopped_by: the signal that ended the loop, on whichever rank it came.
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
    peaks: Sequence[float]
    ema: WeightAverage | None = None
    adapt: Adapt | None = None
    stopped_by: signal.Signals | None = None

    def __post_init__(self) -> None:
        self.meter = Meter()
        self.metric = metric_of(self.stepper.task)
        self.saved_seconds = self.state.seconds
        self._apart = Apart()
        self._looked_at = self.state.step
        self._checked = self.state.applied > 0
        self._clock = time.monotonic() - self.state.seconds

    def __call__(self) -> str:
        """Run to the end of the budget or a stop request; returns ``finished`` or ``stopped``."""
        run, state = self.run, self.state
        while self._done() < 1.0 and self.stopped_by is None:
            waited = self.world.waited.seconds
            self._step()
            if self._done() >= 1.0:
                self.stepper.parallel.before_checkpoint()
            if not self.stepper.parallel.met:
                continue  # until they meet again, no rank waits for another
            self._control()
            self.meter.waited += self.world.waited.seconds - waited
            done = self._done()
            before, self._looked_at = self._looked_at, state.step
            if _passed(before, state.step, run.log_every) or done >= 1.0:
                self._log()
            if done >= 1.0 or self.stopped_by is not None:
                break
            if self._evaluation_due(done):
                self.evaluate()
            elif self._checkpoint_due(before):
                self.save()
        # a run that was killed after its last evaluation has it already
        evaluated = state.last_evaluation is not None and state.last_evaluation["step"] == state.step
        if self.stopped_by is None and not evaluated:
            self.evaluate() if run.evaluations else self.save()
        if self.stopped_by is not None:
            self.save()
            return "stopped"
        return "finished"

    def _done(self) -> float:
        return self.budget.fraction(self.state.step, self.state.seconds)

    def seconds_left(self) -> float:
        """Estimate of the time to the end of the budget."""
        if self.budget.seconds is not None:
            return max(0.0, self.budget.seconds - self.state.seconds)
        done = self._done()
        return self.state.seconds * (1.0 / done - 1.0) if done > 0 else math.inf

    def _step(self) -> None:
        """The batch of a step; one update, or several of a part of it each while the batch is still to grow."""
        run, state, adapt = self.run, self.state, self.adapt
        if adapt is None:
            factor = run.schedule.func(self.budget.progress(state.applied), **run.schedule.keywords)
            for group, peak in zip(self.stepper.optimizer.param_groups, self.peaks, strict=True):
                group["lr"] = peak * factor
        elif self.budget.seconds is not None:
            adapt.total_samples = self.budget.total
        batches = [
            self.data.at(state.step, first, count).to(self.world.device)
            for first, count in self.plan.lanes(self.world.rank)
        ]
        decided: list[Any] = []
        done = 0
        while done < len(batches):
            end = len(batches) if adapt is None else done + adapt.accumulation
            self.lr = self.stepper.optimizer.param_groups[0]["lr"]
            if adapt is not None:
                adapt.may_grow = end == len(batches)
                self.stepper.max_norm = run.max_norm if adapt.max_norm is None else adapt.max_norm
            loss = self._update(batches[done:end], done * self.plan.micro_batch_size, len(batches))
            if adapt is not None:
                decided += adapt.step(loss)
            done = end
        if decided:
            self.tell(decided)

    def _update(self, batches: list[Any], first: int, whole: int) -> torch.Tensor:
        """One update on micro-batches of this rank, from lane ``first`` on, of ``whole``; returns its mean loss."""
        state, size = self.state, len(batches) * self.plan.micro_batch_size
        result = self.stepper(batches, {name: carry[first : first + size] for name, carry in state.carry.items()})
        state.carry = {
            name: torch.cat([state.carry[name][:first], new, state.carry[name][first + size :]])
            if len(batches) < whole
            else new
            for name, new in result.carry.items()
        }
        state.step += first == 0
        self.meter.steps += 1
        together = self.stepper.parallel.synchronous
        if together:
            state.tokens += result.global_count
            state.skipped += result.skipped
            state.skipped_in_a_row = state.skipped_in_a_row + 1 if result.skipped else 0
        else:
            self._apart.add(result.count, result.skipped)
        if not result.skipped or not together:
            state.applied += self.run.global_batch_size * len(batches) // whole
        if together:
            self._look_at_skipped()
        if not result.skipped:
            if together:
                self._check_optimizer()
            if self.run.boost is not None:
                self._boost()
            if self.ema is not None:
                self.ema.update()
            self.meter.add(result.total, result.grad_norm, result.count)
        return result.total / max(1, result.count)

    def _boost(self) -> None:
        """Search where it is due: on the first micro-batch of the step to come, checked by that of the one after.

        Both begin with the state of now, which of recurrent models is the true one of the first only.
        """
        optimizer: Any = self.stepper.optimizer
        if not optimizer.due:
            return
        first, count = self.plan.lanes(self.world.rank)[0]
        carry = {name: tensor[:count] for name, tensor in self.state.carry.items()}
        one, other = (
            boost_batch(
                self.stepper.task,
                self.data.at(self.state.step + ahead, first, count).to(self.world.device),
                carry,
                self.world,
            )
            for ahead in (0, 1)
        )
        self.tell([boost(optimizer, one, other)])

    def tell(self, decisions: Sequence[Any]) -> None:
        """Write down what was decided."""

        def tell() -> None:
            for sink in self.sinks:
                for decision in decisions:
                    said = decision.to_json() | {"text": str(decision)}
                    sink.decision(said | {"step": self.state.step, "update": said["step"]})

        self.world.on_main(tell)

    def _look_at_skipped(self) -> None:
        if self.state.skipped_in_a_row >= self.run.max_skipped:
            self.world.together(self._give_up)

    def _check_optimizer(self) -> None:
        """Whether a checkpoint can hold its state: rather at once than at the first of them."""
        if not self._checked:
            self.world.together(lambda: flatten_optimizer(self.stepper.optimizer))
            self._checked = True

    def _give_up(self) -> None:
        raise UserError(
            f"{self.state.skipped_in_a_row} steps in a row gave a loss or gradient that is not finite "
            f"(step {self.state.step}).",
            "Try a lower rate, a longer warm-up, a smaller max_norm or --precision fp32.",
        )

    def _control(self) -> None:
        """Agree over the ranks on the time and on stopping, and on what they did if they were apart."""
        seconds, wanted = time.monotonic() - self._clock, float(self.stop.signal or 0)
        if self.world.world_size > 1:
            shared = torch.tensor([seconds, wanted], dtype=torch.float64, device=self.world.device)
            self.world.all_reduce(shared, dist.ReduceOp.MAX)
            seconds, wanted = shared.tolist()
        self.state.seconds = seconds
        if not self.stepper.parallel.synchronous:
            self._apart.join(self.state, self.world, self.run.global_batch_size)
            self._look_at_skipped()
            self._check_optimizer()
        self.budget.observe(self.state.applied, seconds)
        if wanted:
            self.stopped_by = signal.Signals(int(wanted))

    def _log(self) -> None:
        state = self.state
        reading = self.meter.read(self.stepper.max_norm)
        sums = [reading["total"], reading["count"], *self._traffic(reading)]
        shared = torch.tensor(sums, dtype=torch.float64, device=self.world.device)
        total, count, *traffic = self.world.all_reduce(shared).tolist()
        scaler = self.stepper.scaler
        record = StepRecord(
            step=state.step,
            samples=state.step * self.run.global_batch_size,
            tokens=state.tokens,
            seconds=round(state.seconds, 3),
            loss=total / count if count else math.nan,
            bits_per_byte=self._told("bits_per_byte", total, int(count)),
            perplexity=self._told("perplexity", total, int(count)),
            lr=self.lr,
            grad_norm=reading["grad_norm"],
            clipped=reading["clipped"],
            skipped=state.skipped,
            tokens_per_s=count / reading["seconds"] if reading["seconds"] > 0 else math.nan,
            loss_scale=scaler.get_scale() if scaler is not None else None,
            **dict(zip(TRAFFIC, [value / self.world.world_size for value in traffic], strict=False)),
        )

        def tell() -> None:
            for sink in self.sinks:
                sink.step(record)

        self.world.on_main(tell)

    def _traffic(self, reading: Mapping[str, float]) -> list[float]:
        """What this rank sent in a step, and its seconds of computing and waiting; as far as they are measured."""
        meter = self.stepper.parallel.meter
        if meter is None or self.world.world_size == 1 or not reading["steps"]:
            return []
        traffic, steps = meter.read(), reading["steps"]
        if self.world.device.type == "cuda":  # where an exchange that is launched is not yet made
            return [traffic.wire_bytes / steps]
        waiting = traffic.waiting_seconds + reading["waited"]
        return [traffic.wire_bytes / steps, max(0.0, reading["seconds"] - waiting) / steps, waiting / steps]

    def _told(self, name: str, total: float, count: int) -> float | None:
        of = METRICS[name].of
        return of(total, count) if of is not None and name == self.metric.name else None

    def evaluate(self) -> None:
        """Evaluate on rank 0, sample, mark the best, save.

        A signal on rank 0 meanwhile leaves the evaluation to the resumed run; the loop then stops by ``stopped_by``.
        """
        state = self.state
        started = time.monotonic()
        self._settle()
        self.stepper.parallel.before_checkpoint()
        gathered = self.for_evaluation() if self.stepper.parallel.sharded else None
        looked = self.world.broadcast_object(self.world.on_main(lambda: self._look(gathered)))
        interrupted, record = looked or (False, None)
        if interrupted:
            self._control()
            return
        # a run that adapts has come as far as its engine says, and not by its steps
        state.last_evaluation = record if self.adapt is None or record is None else record | {"done": self._done()}
        name = self.metric.name
        value = record[name] if record is not None else math.nan
        if math.isfinite(value) and (state.best is None or self.metric.better(value, state.best[name])):
            state.best = {"step": state.step, name: value}
        self.meter.exclude(time.monotonic() - started)
        self.save()

    def for_evaluation(self) -> Chosen:
        """What gives the model to evaluate, on rank 0; every rank must call."""
        model, sharded = self.stepper.task.model, self.stepper.parallel.sharded
        return for_evaluation(model, self.run.model, self.ema, sharded, self.world.is_main)

    def _look(self, gathered: Chosen | None = None) -> tuple[bool, dict[str, Any] | None]:
        """Whether a signal interrupted it, and the evaluation."""
        run, state = self.run, self.state
        if run.evaluate is None:
            return False, None
        try:
            with self.stop.at_once(), (gathered or self.for_evaluation())() as model:
                found = run.evaluate(model=model, autocast_dtype=self.stepper.precision.dtype, final=False)
                # a model that is no longer finite has nothing to say; the steps that follow will stop the run
                speaks = run.sample is not None and math.isfinite(found[self.metric.name])
                text = run.sample(model=model) if speaks and run.sample is not None else None
        except StoppedError:
            return True, None
        where = {
            "step": state.step,
            "samples": state.step * run.global_batch_size,
            "tokens": state.tokens,
            "seconds": round(state.seconds, 3),
        }
        for sink in self.sinks:
            sink.evaluation(where | found)
            if text is not None:
                sink.sample({"step": state.step} | text)
        return False, where | found

    def save(self) -> None:
        """Write a checkpoint."""
        started = time.monotonic()
        self._settle()
        checkpoint = capture(self.state, self.stepper, self.world, self.budget.total, self.ema, self.adapt)
        save_on_ranks(self.folder / "checkpoints", checkpoint, self.run.keep_last, self.world)
        self.saved_seconds = self.state.seconds
        self.meter.exclude(time.monotonic() - started)

    def _settle(self) -> None:
        """Let an optimizer of rows make up for the weight decay of rows that had no gradient of late."""
        settle = getattr(self.stepper.optimizer, "settle", None)
        if settle is not None:
            settle()

    def _evaluation_due(self, done: float) -> bool:
        """Whether the run has come to the next of its evenly spread evaluations since the last it made."""
        count, last = self.run.evaluations, self.state.last_evaluation
        if not count or self.run.evaluate is None:
            return False
        # by the budget of now, which may be longer than the one that the last evaluation was made under
        before = 0.0
        if last is not None:
            before = last["done"] if "done" in last else self.budget.fraction(last["step"], last["seconds"])
        return math.floor(done * count + 1e-9) > math.floor(before * count + 1e-9)

    def _checkpoint_due(self, before: int) -> bool:
        every = self.run.checkpoint_steps
        if every and _passed(before, self.state.step, every):
            return True
        # state.seconds is agreed on, so every rank decides alike
        return self.state.seconds - self.saved_seconds >= self.run.checkpoint_minutes * 60


def _passed(before: int, step: int, every: int) -> bool:
    """Whether a multiple of ``every`` lies after one step and not after another."""
    return step // every > before // every
