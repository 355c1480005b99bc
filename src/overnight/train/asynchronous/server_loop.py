"""The loop of rank 0 around a server: its steps are of all workers, counted by pushes."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from overnight.comm.asynchronous import Asynchronous, AsyncWorker, ParameterServer, Push
from overnight.train.asynchronous.place import Place
from overnight.train.asynchronous.share import Share, identities
from overnight.train.build import Parts
from overnight.train.checkpoint import Checkpoint, save_checkpoint
from overnight.train.loop import Loop
from overnight.train.sharded import Chosen
from overnight.train.state import capture

PATIENCE_SECONDS = 5.0
"""Added to three times the longest step of late: how long a checkpoint waits for what workers give to it."""
LOOK_SECONDS = 0.2
APART = ("model", "optimizer", "carry", "ema")
"""Groups of a checkpoint that are copied, since training goes on while it is written."""


class ServerLoop(Loop):
    """One asynchronous run under way, on rank 0.

    A step is as many pushes as there are ranks. Evaluations are of a copy and checkpoints of the same moment, while the
    server goes on.
    """

    server: ParameterServer

    def open(self, place: Place, settings: Asynchronous, task: nn.Module, parts: Parts) -> None:
        """Start the server, and join it.

        Args:
            place: of this rank.
            settings: of the run.
            task: this rank's copy of the task.
            parts: of the run.
        """
        run, state, self.ranks = self.run, self.state, place.world_size
        self.lanes = run.global_batch_size // self.ranks
        self.first_step, self.samples = state.step, state.applied
        self.lr = self.peaks[0]
        self._news: list[Push] = []
        self._of_log: list[Push] = []
        self._frozen: Checkpoint | None = None
        self._longest, self._received = 0.0, 0
        self.server = ParameterServer(
            self.stepper.task,
            self.stepper.optimizer,
            host=place.host if self.ranks > 1 else None,
            port=place.port,
            workers=self.ranks,
            plan=settings.plan,
            max_staleness=settings.max_staleness,
            lr_by_staleness=settings.lr_by_staleness,
            pushes_per_update=settings.pushes_per_update,
            max_norm=run.max_norm,
            before_update=self._before_update,
            after_update=self._after_update,
            on_join=self._on_join,
            timeout_seconds=settings.timeout_seconds,
            **identities(run, parts, self.ranks),
        )
        self.server.told = {"folder": str(self.folder), "checkpoint": None}
        if self.budget.steps is not None:
            self.server.limit = max(0, self.budget.steps - state.step) * self.ranks
        place.announce(self.server.port)
        worker = AsyncWorker.attach(self.server, task)
        self.share = Share(worker, task, parts, 0, self.world.device, self._lanes_of(0), state.step)
        self.share.stepper.scaler = self.stepper.scaler  # which is saved

    def gather(self, seconds: float) -> None:
        """Wait so long for the other workers."""
        end = time.monotonic() + seconds
        while self.stop.signal is None and time.monotonic() < end:
            if self.server.sessions.wait_for(self.ranks, LOOK_SECONDS):
                break
        self._clock = time.monotonic() - self.state.seconds

    def _before_update(self, pushes: Sequence[Push]) -> None:
        run = self.run
        factor = run.schedule.func(self.budget.progress(self.samples), **run.schedule.keywords)
        for group, peak in zip(self.stepper.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.lr = self.stepper.optimizer.param_groups[0]["lr"]

    def _after_update(self, pushes: Sequence[Push]) -> None:
        self._news += pushes
        finite = sum(push.finite for push in pushes)
        self.samples += finite * self.lanes
        if not finite:
            self._before_update(pushes)  # the rate at which it would have been made
        elif self.ema is not None:
            # an update is of as many samples as its pushes, the average's of a whole batch
            self.ema.update(finite * self.lanes / self.run.global_batch_size)

    def _on_join(self, rank: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
        given = self.server.sessions.given.get(rank)
        return {"step": self._position()}, self._lanes_of(rank) if given is None else given

    def _position(self) -> int:
        return self.first_step + sum(self.server.counts.pushes.values()) // self.ranks

    def _lanes_of(self, rank: int) -> dict[str, Tensor]:
        return {n: t[rank * self.lanes : (rank + 1) * self.lanes].clone() for n, t in self.state.carry.items()}

    def _step(self) -> None:
        self.share()
        with self.server.lock:
            self._hear()
            if self.server.version:
                self._check_optimizer()
        self._look_at_skipped()

    def _hear(self) -> None:
        """Take what workers have pushed since into the state."""
        state, news = self.state, self._news
        self._news = []
        step = self._position()
        self.meter.steps += step - state.step
        state.step, state.applied = step, self.samples
        for push in news:
            self._longest = max(0.9 * self._longest, sum(push.seconds))
            state.tokens += push.count
            state.skipped += not push.finite
            state.skipped_in_a_row = 0 if push.finite else state.skipped_in_a_row + 1
            if push.finite:
                self.meter.add(push.loss, push.norm, push.count)
        self._of_log += news

    def _traffic(self, reading: Mapping[str, float]) -> list[float]:
        pushes, self._of_log = self._of_log, []
        if self.ranks == 1 or not pushes:
            return []
        _, received = self.server.traffic()
        sent, self._received = received - self._received, received
        computing, waiting = (sum(push.seconds[i] for push in pushes) / len(pushes) for i in (0, 1))
        return [sent / len(pushes), computing, waiting]

    def evaluate(self) -> None:
        """Evaluate, sample, mark the best, save: all of one moment."""
        self._freeze()
        try:
            super().evaluate()
        finally:
            self._frozen = None

    def save(self) -> None:
        """Write a checkpoint: of the moment that was evaluated, or of now."""
        started = time.monotonic()
        frozen = self._freeze() if self._frozen is None else self._frozen
        self._frozen = None
        decided = {"best": self.state.best, "last_evaluation": self.state.last_evaluation}
        checkpoint = replace(frozen, state={**frozen.state, **decided})
        path = save_checkpoint(self.folder / "checkpoints", checkpoint, self.run.keep_last)
        self.server.told = {"folder": str(self.folder), "checkpoint": str(path)}
        self.saved_seconds = self.state.seconds
        self.meter.exclude(time.monotonic() - started)

    def _freeze(self) -> Checkpoint:
        if self.stopped_by is not None or self._done() >= 1.0:
            self.server.end(self.stopped_by.name if self.stopped_by is not None else "finished")
        given = self.server.sessions.ask(PATIENCE_SECONDS + 3 * self._longest) if self.state.carry else {}
        given[0] = self.share.carry
        with self.server.lock:
            self.server.flush()  # a checkpoint has no place for half an update
            self.server.settle()
            self._hear()
            for name, carry in self.state.carry.items():
                for rank, parts in given.items():
                    carry[rank * self.lanes : (rank + 1) * self.lanes] = parts[name]
            task, local = self.stepper.task, self.share.stepper.task
            _take_over(task, local)
            with self.ema.applied() if self.ema is not None else nullcontext():
                self.share.worker.pull_all()
            if self.ema is not None:
                self.share.worker.forget()  # it holds the average now
            captured = capture(self.state, self.stepper, self.world, self.budget.total, self.ema)
            apart = {g: {name: t.clone() for name, t in getattr(captured, g).items()} for g in APART}
            self._frozen = replace(captured, **apart)
        return self._frozen

    def _settle(self) -> None:
        """Done when the moment was frozen."""

    def _look(self, gathered: Chosen | None = None) -> tuple[bool, dict[str, Any] | None]:
        # this rank's copy was made that of the moment, the average of the weights where there is one
        held = self.stepper, self.ema
        self.stepper, self.ema = self.share.stepper, None
        try:
            return super()._look()
        finally:
            self.stepper, self.ema = held


def _take_over(task: nn.Module, local: nn.Module) -> None:
    """What training changes beside the parameters is this rank's: buffers, and generators of samples."""
    with torch.no_grad():
        for buffer, own in zip(task.buffers(), local.buffers(), strict=True):
            buffer.copy_(own)
    for module, other in zip(task.modules(), local.modules(), strict=True):
        generator, changed = getattr(module, "generator", None), getattr(other, "generator", None)
        if isinstance(generator, torch.Generator) and isinstance(changed, torch.Generator):
            generator.set_state(changed.get_state())
