"""DATE on line: the rate, the schedule and the batch follow the gradient noise scale, and a sentry goes back."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from overnight.scaling.date_settings import cut, growth, intervals, limits, schedule_factor, warmup_steps
from overnight.scaling.date_state import as_plain, put_back, watched
from overnight.scaling.decisions import Decision, Value
from overnight.scaling.following import Following
from overnight.scaling.group_settings import NORMALISED, GroupSettings
from overnight.scaling.hyperparameters import Hyperparameters
from overnight.scaling.measuring import Measuring
from overnight.scaling.sentry import Sentry, given_up
from overnight.scaling.snapshot import Snapshot, Stateful
from overnight.scaling.warming import WarmUp


class DATE:
    """Takes a baseline that was tuned at batch B₀ to batch B = k·B₀ while it trains; docs/methods/date.md.

    The gain r = (1 + Bn/B₀) / (1 + Bn/B), 1 to k, says how many old steps a new one is worth. Bn is measured as
    training goes; until that can be believed r = k and the rate is LEGW's, · √k. Then

        rate · r (SGD), or · √r (Adam, LAMB, LARS; not raised further once B is past Bn)
        schedule: advanced by r·B₀ effective samples a step, at least by B / max_stretch
        betas, ε, decoupled decay, clip: as ``overnight.scaling.rules.date`` has them, those that the baseline names
        warm-up: LEGW's steps, held or hastened by the relative step; again after each jump
        batch: grows by accumulation with Bn, within the first ``batch_warmup`` of the run
        a spike: back to an earlier state in memory, with half the gain

    Build it around an optimizer with the baseline's settings, train with ``accumulation`` micro-batches a step, and
    call ``observe`` after each backward (before clipping) and ``step`` in the place of ``scheduler.step``. Every
    decision is a ``Decision`` in ``decisions``. On several ranks all must make the same calls; they decide alike.

    Args:
        optimizer: any ``torch.optim.Optimizer``; of its groups at least one has the baseline's rate.
        baseline: tuned at its batch; ``total_samples`` is the length there. Its warm-up is the one to keep.
        global_batch_size: B, over all ranks and micro-batches.
        micro_batch_size: samples of one backward on one rank; None for a rank's whole share.
        model: whose parameters and buffers are watched and kept; None takes the optimizer's parameters.
        schedule: (position) → factor of the peak rate, without a warm-up: a curve of ``overnight.schedule``. None holds
            the rate.
        total_samples: in the place of the baseline's.
        adaptive: the optimizer normalises its update; None tells Adam's kind, LARS, LAMB, Adagrad … from the rest.
        fixed: names of settings that stay as they are: lr, warmup_samples, total_samples (no lengthening),
            global_batch_size (no batch warm-up), betas, eps, weight_decay, max_norm.
        measure: False for no noise scale: LEGW, with warm-up and sentry.
        measure_every: steps from one measurement to the next; None for a hundred or more a run, 25 at most.
        max_stretch: the run takes at most so many times the baseline's samples; 2 unless given.
        batch_warmup: share of the run in which the batch may be smaller; 0.1 unless given, 0 for none.
        rollbacks: so many, and then an error; 0 for no sentry.
        sentry: its bounds; None for the usual ones.
        snapshot_every: steps between states that are kept in memory (two of them); None for a twentieth of the run.
        snapshot_device: where they lie; ``cpu`` spares a GPU's memory.
        stateful: what else goes back: a recurrent state, an average of weights.
        process_group: of the ranks.
        log: takes each decision.

    Raises:
        UserError: for settings that conflict, a batch below the baseline's, or a noise scale that cannot be measured.

    >>> import torch
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Linear(20, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    >>> tuned = Hyperparameters(lr=0.01, global_batch_size=16, warmup_samples=160, total_samples=3200)
    >>> date = DATE(optimizer, tuned, global_batch_size=64, micro_batch_size=16, batch_warmup=0)
    >>> while not date.done:
    ...     optimizer.zero_grad()
    ...     for _ in range(date.accumulation):
    ...         x = torch.randn(16, 20)
    ...         loss = (model(x) - x.sum(1, keepdim=True) - torch.randn(16, 1)).square().mean()
    ...         (loss / date.accumulation).backward()
    ...         date.observe(loss)
    ...     optimizer.step()
    ...     _ = date.step()
    >>> date.samples <= 2 * 3200, date.gain < 4, date.decisions[0].what
    (True, True, 'lr')
    >>> date.close()
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        baseline: "Hyperparameters | partial[Hyperparameters]",
        *,
        global_batch_size: int,
        micro_batch_size: int | None = None,
        model: nn.Module | None = None,
        schedule: Callable[[Any], float] | None = None,
        total_samples: float | None = None,
        adaptive: bool | None = None,
        fixed: Collection[str] = (),
        measure: bool = True,
        measure_every: int | None = None,
        max_stretch: float | None = None,
        batch_warmup: float | None = None,
        rollbacks: int = 3,
        sentry: Sentry | None = None,
        snapshot_every: int | None = None,
        snapshot_device: str | None = None,
        stateful: Iterable[Stateful] = (),
        process_group: dist.ProcessGroup | None = None,
        log: Callable[[Decision], None] | None = None,
    ) -> None:
        baseline = baseline() if isinstance(baseline, partial) else baseline
        if total_samples is not None:
            warmup = min(baseline.warmup_samples, total_samples)
            baseline = replace(baseline, total_samples=total_samples, warmup_samples=warmup)
        self.optimizer, self.baseline, self.schedule, self.log = optimizer, baseline, schedule, log
        self.total_samples = baseline.total_samples
        self.limits = limits(fixed, max_stretch, batch_warmup, rollbacks)
        self.ranks = dist.get_world_size(process_group) if dist.is_available() and dist.is_initialized() else 1
        self._measure = measure
        self._cut(global_batch_size, micro_batch_size)
        preconditioned = {"betas", "eps"} <= set(optimizer.defaults)
        if adaptive is None:
            adaptive = preconditioned or type(optimizer).__name__ in NORMALISED
        self.following = Following(baseline.global_batch_size, adaptive)
        self.settings = GroupSettings(optimizer, baseline, adaptive, self.limits.fixed)
        self.sentry = sentry or Sentry()
        every, between = intervals(self.total_samples, global_batch_size)
        self.snapshot_every, every = snapshot_every or between, measure_every or every
        named = watched(optimizer, model)
        self.measuring = Measuring(
            named,
            optimizer,
            every=every,
            noise=self.cut.noise,
            preconditioned=preconditioned,
            process_group=process_group,
        )
        tensors = [p for _, p in named] if model is None else [*model.parameters(), *model.buffers()]
        self._new_snapshot = partial(Snapshot, tensors, optimizer, tuple(stateful), snapshot_device)
        self._snapshots: list[tuple[Snapshot, dict[str, Any]]] = []
        self.warm = self._new_warmup()
        self.steps = self.rollbacks_made = self._grown_at = 0
        self.samples, self.position = 0.0, 0.0
        # position at which the first warm-up ended
        self._warm_until: float | None = None if self.warm.steps else 0.0
        self._stretched = False
        self.decisions: list[Decision] = []
        self.may_grow = True  # a loop that cuts a batch into steps lets it grow between batches only
        if not self.growth.over:
            why = f"batch warm-up, at most {self.limits.batch_warmup:.0%} of the run"
            self._decide("global_batch_size", self.cut.full, self.global_batch_size, why, {})
        self._begin_rate()
        self._apply()

    def _cut(self, batch: int, micro: int | None) -> None:
        self.cut = cut(self.baseline, batch, micro, self.ranks, self._measure)
        self.growth = growth(self.baseline, self.cut, self.ranks, self.limits.batch_warmup)

    def _warmup_steps(self) -> int:
        return warmup_steps(self.baseline, self.cut.full, self.limits.fixed)

    def _new_warmup(self) -> WarmUp:
        return WarmUp(self._warmup_steps(), adjustable="warmup_samples" not in self.limits.fixed)

    def _begin_rate(self) -> None:
        if "lr" in self.limits.fixed:
            return
        old, self.following.rate = self.following.rate, self.following.target(self.global_batch_size)
        if self.following.rate != old:
            why = "by the gain" if self.following.measured else "LEGW's √k until the noise scale can be believed"
            self._decide_rate(old, why, {"batch": float(self.global_batch_size)})

    @property
    def accumulation(self) -> int:
        """Micro-batches of a rank in the step to come."""
        return self.growth.accumulation

    @property
    def global_batch_size(self) -> int:
        """Samples of the step to come."""
        return self.cut.together * self.accumulation

    @property
    def gain(self) -> float:
        """r of the step to come, halved by each rollback."""
        return self.following.backoff * self.following.gain(self.global_batch_size)

    @property
    def max_norm(self) -> float | None:
        """The norm to clip to, if the baseline has one."""
        found: float | None = self.settings.followed("max_norm", self.following.gain(self.global_batch_size))
        return found

    @property
    def progress(self) -> float:
        """Share of the run, 0 to 1; 0 where it has no end."""
        return min(1.0, self.position / self.total_samples) if self.total_samples else 0.0

    @property
    def done(self) -> bool:
        """Whether the run has the baseline's length in effective samples."""
        return self.progress >= 1.0 - 1e-9

    def observe(self, loss: Tensor | float, *, loss_scale: float = 1.0) -> None:
        """After the backward of a micro-batch, whose loss was divided by ``accumulation``.

        Args:
            loss: mean loss of the micro-batch, not divided.
            loss_scale: as for ``NoiseScale.observe``.

        Raises:
            UserError: if it is called more often than ``accumulation`` in a step.
        """
        if self.measuring.take(loss, self.accumulation):
            self._observed(loss_scale)

    def observe_step(self, *, loss_scale: float = 1.0) -> None:
        """In the place of ``observe``: all micro-batches of a step at once. The loss is then given to ``step``."""
        self.measuring.losses = [math.nan] * self.accumulation
        self._observed(loss_scale)

    def _observed(self, loss_scale: float) -> None:
        if not self._snapshots:  # the weights are still as they were when training began, or went on
            self._keep()
        self.measuring.observe(self.global_batch_size, loss_scale)

    def step(self, loss: Tensor | float | None = None) -> tuple[Decision, ...]:
        """After the optimizer's step: look, decide, and set what the next step trains with. Returns what was decided.

        Args:
            loss: mean of the step on this rank, if it was not given to ``observe``.

        Raises:
            UserError: if ``observe`` was not called ``accumulation`` times, or after too many rollbacks.
        """
        self.measuring.check(self.accumulation)
        before = len(self.decisions)
        mean, updated, relative = self.measuring.end_step(loss)
        wrong = self.sentry.look(mean, updated=updated, relative_step=relative) if self.limits.rollbacks else None
        self.samples += self.global_batch_size
        self.steps += 1
        if wrong is not None:
            self._go_back(wrong)
        elif updated:
            self._advance()
            self._watch_warmup(relative)
            self._follow()
            self._grow()
        self._apply()
        if wrong is None and self.steps % self.snapshot_every == 0:
            self._keep()
        return tuple(self.decisions[before:])

    def _advance(self) -> None:
        batch = self.global_batch_size
        effective = self.gain * self.baseline.global_batch_size
        if "total_samples" in self.limits.fixed:
            effective = float(batch)
        elif effective < batch / self.limits.max_stretch:
            least = batch / self.limits.max_stretch
            if not self._stretched:
                why = f"a run takes at most {self.limits.max_stretch:g} times the samples"
                self._decide("effective_samples", effective, least, why, {"gain": self.gain, "batch": float(batch)})
            self._stretched, effective = True, least
        self.position += effective
        if self._warm_until is None and self.warm.over:
            self._warm_until = self.position
            self._decide("warmup", "rising", "over", f"after {self.steps} steps", {"held": float(self.warm.held)})
        self.warm.advance()

    def _watch_warmup(self, relative: float | None) -> None:
        if relative is None or self._rate_used <= 0:
            return
        old = self.warm.speed
        if self.warm.judge(relative / self._rate_used, self.following.measured):
            numbers = {"relative_step": relative, "lr": self._rate_used}
            self._decide("warmup_speed", old, self.warm.speed, self.warm.said, numbers)

    def _follow(self) -> None:
        reading = self.measuring.reading()
        if reading is None:
            return
        batch, following = self.global_batch_size, self.following
        found = following.believe(reading, batch)
        if found is not None:
            old, following.noise_scale = self.gain, found
            of = "the update" if self.measuring.preconditioned else "the gradient"
            why = f"the noise scale of {of} is {found:,.0f} samples"
            numbers = {"low": reading.low, "high": reading.high, "batch": float(batch)}
            self._decide("gain", old, self.gain, why, numbers | self.settings.described(following.gain(batch)))
        if following.measured and "lr" not in self.limits.fixed:
            before = following.rate
            if following.approach(batch):
                numbers = {"gain": self.gain, "target": self.baseline.lr * following.target(batch)}
                self._decide_rate(before, "baseline's · √r" if following.adaptive else "baseline's · r", numbers)

    def _grow(self) -> None:
        if self.growth.over or not self.warm.over or not self.may_grow:
            return
        batch, following = self.global_batch_size, self.following
        # a run without an end has no share of it: then so many steps from one doubling to the next
        patience = 2 * max(50, self._warmup_steps())
        done = self.progress if self.total_samples else float(self.steps - self._grown_at >= patience)
        why = self.growth.due(following.noise_scale if following.measured else None, 2 * batch, done)
        if why is None:
            return
        self.growth.index += 1
        self._grown_at = self.steps
        old = following.rate
        self._decide("global_batch_size", batch, self.global_batch_size, why, {"noise_scale": following.noise_scale})
        self._begin_rate()
        start = min(1.0, old / following.rate)
        self.warm = WarmUp(max(1, self._warmup_steps() // 4), start, adjustable=self.warm.adjustable)

    def jumped(self, why: str, *, global_batch_size: int | None = None, micro_batch_size: int | None = None) -> None:
        """Say that batch, sequence length or data change from the next step on: it warms up and measures anew.

        Args:
            why: for the log.
            global_batch_size: B from now on; None if it stays.
            micro_batch_size: the same.
        """
        self._cut(global_batch_size or self.cut.full, micro_batch_size or self.cut.together // self.ranks)
        self.growth.index = len(self.growth.options) - 1
        self.measuring.begin(self.cut.noise)
        self.sentry.forget()
        self.warm = self._new_warmup()
        self._decide("warmup", None, "rising", why, {"batch": float(self.cut.full), "steps": float(self.warm.steps)})
        self._begin_rate()
        self._snapshots = []
        self._apply()

    def _keep(self) -> None:
        if self.limits.rollbacks:
            self._snapshots = [*self._snapshots[-1:], (self._new_snapshot(), as_plain(self))]

    def _go_back(self, wrong: str) -> None:
        # to the older of the two states, since the newer may be on its way off already
        if self.rollbacks_made == self.limits.rollbacks or not self._snapshots:
            raise given_up(self.rollbacks_made, wrong, self.steps)
        snapshot, plain = self._snapshots[0]
        kept = {"steps": self.steps, "samples": self.samples, "rollbacks_made": self.rollbacks_made + 1}
        backoff, following = self.following.backoff / 2, self.following
        snapshot.restore()
        put_back(self, plain | kept)
        self._snapshots = [(snapshot, plain)]
        gone = self.steps - plain["steps"]
        what = f"{wrong}: back by {gone} steps, to update {self.measuring.updates}"
        self._decide("rollback", self.rollbacks_made - 1, self.rollbacks_made, what, {"bound": self.sentry.bound})
        if "lr" not in self.limits.fixed:
            before = following.rate
            following.back_off(backoff)
            self._decide_rate(before, "half the gain", {"gain": self.gain})

    def _apply(self) -> None:
        factor = self.warm.factor * (1.0 if "lr" in self.limits.fixed else self.following.rate)
        if self.schedule is not None:
            ended = self.position if self._warm_until is None else self._warm_until
            factor *= schedule_factor(self.schedule, self.position, ended, self.global_batch_size, self.total_samples)
        self.settings.apply(factor, self.following.gain(self.global_batch_size))
        self._rate_used = self.baseline.lr * factor

    def _decide_rate(self, old: float, why: str, numbers: Mapping[str, float]) -> None:
        self._decide("lr", self.baseline.lr * old, self.baseline.lr * self.following.rate, why, numbers)

    def _decide(self, what: str, old: Value, new: Value, why: str, numbers: Mapping[str, float]) -> None:
        decision = Decision(self.steps, what, old, new, why, numbers)
        self.decisions.append(decision)
        if self.log is not None:
            self.log(decision)

    def state_dict(self) -> dict[str, Any]:
        """Plain data, between two steps; every rank must call it.

        To make one is also to keep a state to go back to, in the place of those before: so a run that is resumed from
        it does what this one does.
        """
        self._snapshots = []
        self._keep()
        return as_plain(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on, once model and optimizer have their state; sets the optimizer's rates.

        Raises:
            ValueError: if it is of another batch or other layers.
        """
        if state["batch"][0] != self.cut.full:
            raise ValueError(f"this state is of batch {state['batch'][0]}, not of {self.cut.full}")
        put_back(self, state)
        self._snapshots = []
        self._apply()

    def close(self) -> None:
        """Take all hooks off."""
        self.measuring.close()
        self._snapshots = []
