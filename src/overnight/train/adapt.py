"""What the trainer asks of an engine that sets rate and batch as training goes; ``overnight.scaling.DATE`` is one."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

from overnight.errors import UserError
from overnight.schedule.curves import Progress
from overnight.train.budget import Budget
from overnight.train.build import Parts, construct
from overnight.train.components import Component, keyword_names
from overnight.train.run import Run

if TYPE_CHECKING:
    from overnight.train.state import State
    from overnight.train.step import Stepper


class Adapt(Protocol):
    """Sets the rates of the optimizer that it was built around.

    Attributes:
        total_samples: of the run, which the trainer estimates anew where the budget is in minutes.
        may_grow: whether the batch may change after this step; the trainer lets it at the end of a batch only.
        decisions: made so far.
    """

    total_samples: float | None
    may_grow: bool

    @property
    def decisions(self) -> Any: ...

    @property
    def accumulation(self) -> int:
        """Micro-batches of a rank in the step to come."""

    @property
    def progress(self) -> float:
        """Share of the run that is done."""

    @property
    def max_norm(self) -> float | None:
        """To clip to; None leaves it to the run."""

    def observe_step(self, *, loss_scale: float = 1.0) -> None:
        """All gradients of a step are there."""

    def step(self, loss: Tensor | float | None = None) -> Any:
        """After an update, also one that was skipped: returns decisions, each with ``to_json``."""

    def state_dict(self) -> dict[str, Any]:
        """Plain data; every rank calls it."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from it."""

    def close(self) -> None:
        """Take all hooks off."""


class Watch:
    """An engine's eyes on the trainer's step; it sees the optimizer's own step by hooks of the optimizer."""

    def __init__(self, adapt: Adapt) -> None:
        self._adapt = adapt

    def gradients(self, norm: Tensor, *, loss_scale: float, skipped: bool) -> None:
        self._adapt.observe_step(loss_scale=loss_scale)

    def around(self) -> AbstractContextManager[None]:
        return nullcontext()

    def discard(self) -> None:
        pass  # it is built after the backward that is thrown away


class Kept:
    """What goes back with weights and optimizer: the recurrent state, and the average of the weights."""

    def __init__(self, state: "State", parts: Parts) -> None:
        self._state, self._ema = state, parts.ema

    def state_dict(self) -> dict[str, Any]:
        return {"carry": self._state.carry, "ema": self._ema.weights if self._ema is not None else {}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._state.carry = dict(state["carry"])
        if self._ema is not None:
            self._ema.load(state["ema"])


def build_adapt(run: Run, parts: Parts, state: "State", stepper: "Stepper", budget: Budget) -> Adapt | None:
    """The run's engine, if it has one, and its place in the step and the budget.

    The warm-up is its own, so the schedule is asked for what comes after it. Of a run in minutes the length in samples
    cannot change.

    Raises:
        UserError: for settings that it does not accept.
    """
    if run.adapt is None:
        return None
    given: dict[str, Any] = {"total_samples": budget.total}
    if budget.seconds is not None:
        given["fixed"] = (*run.adapt.keywords.get("fixed", ()), "total_samples")
    made: Adapt = construct(
        "adapt",
        run.adapt,
        optimizer=parts.optimizer,
        model=stepper.task.model,
        schedule=partial(after_warmup, run.schedule),
        global_batch_size=run.global_batch_size,
        micro_batch_size=parts.plan.micro_batch_size,
        stateful=(Kept(state, parts),),
        **given,
    )
    stepper.observer = Watch(made)
    budget.follow(lambda: made.progress)
    return made


def after_warmup(schedule: Component, position: Any) -> float:
    """What a run's schedule says after a warm-up that was as long as the engine's.

    So milestones and other positions of the schedule stay where they are in the run.

    Args:
        schedule: with a warm-up of its own, or none.
        position: ``samples`` and ``total`` count from the end of the engine's warm-up, and ``begun`` is its length.

    >>> from types import SimpleNamespace
    >>> from overnight.schedule import multistep
    >>> drop = partial(multistep, milestones=(50,), warmup_samples=99)
    >>> [after_warmup(drop, SimpleNamespace(samples=s, batch=5, total=80, begun=20)) for s in (25, 30)]
    [1.0, 0.1]
    """
    at = Progress(position.samples + position.begun, position.batch, position.total + position.begun)
    names = keyword_names(schedule.func)
    settings = dict(schedule.keywords)
    if names is None or "warmup_samples" in names:
        settings["warmup_samples"] = position.begun
    factor: float = schedule.func(at, **settings)
    return factor


def load_adapt(adapt: Adapt | None, saved: Mapping[str, Any] | None, path: Path) -> None:
    """Give it what a checkpoint has; one that has nothing of it lets it begin anew.

    Raises:
        UserError: if that is of another batch.
    """
    if adapt is None or saved is None:
        return
    try:
        adapt.load_state_dict(saved)
    except ValueError as error:
        raise UserError(
            f"Checkpoint {path} does not fit the run's rule: {str(error).rstrip('.')}.", "Resume without --set."
        ) from error
