"""A run: one frozen value that says everything, and its JSON."""

import ast
import json
import math
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from overnight.errors import UserError
from overnight.train.components import Component, from_json, import_object, suggest, to_json, with_keyword

FORMAT = "overnight-run/1"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")


@dataclass(frozen=True)
class Run:
    """Everything that decides a training run. Components are ``functools.partial`` s with keyword arguments only.

    Attributes:
        recipe: name of the recipe that made it.
        model: () → nn.Module.
        task: (model) → Task.
        data: (lanes, seed) → an object with ``at(step, first, count)`` and ``steps_per_epoch``.
        optimizer: (params) → torch.optim.Optimizer; its ``lr`` is the peak rate.
        schedule: (Progress) → factor of the peak rate.
        global_batch_size: samples (lanes) of one optimizer update, over all ranks.
        micro_batch_size: samples of one forward and backward on one rank; None takes the rank's whole share.
        epochs, steps, minutes: the budget; exactly one is given.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        max_norm: gradients are clipped to this global L2 norm; None clips nothing.
        seed: of initial weights, data and dropout.
        evaluate: (model, autocast_dtype, final) → evaluation record; None evaluates nothing.
        evaluations: how many evaluations, evenly over the budget; the last is at the end.
        sample: (model) → sampled text; None samples nothing.
        baselines: () → list of ``{name, bits_per_byte}`` to stand beside the result.
        log_every: steps between logging lines.
        checkpoint_minutes: minutes between checkpoints, beside those at evaluations.
        checkpoint_steps: steps between checkpoints; 0 for none of this kind.
        keep_last: checkpoints kept, beside the best.
        max_skipped: so many skipped steps in a row stop the run.
        threads: CPU threads of torch; None leaves torch's choice.
    """

    recipe: str
    model: Component
    task: Component
    data: Component
    optimizer: Component
    schedule: Component
    global_batch_size: int
    micro_batch_size: int | None = None
    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    precision: str = "auto"
    max_norm: float | None = 1.0
    seed: int = 0
    evaluate: Component | None = None
    evaluations: int = 10
    sample: Component | None = None
    baselines: Component | None = None
    log_every: int = 10
    checkpoint_minutes: float = 10.0
    checkpoint_steps: int = 0
    keep_last: int = 2
    max_skipped: int = 20
    threads: int | None = None
    notes: tuple[str, ...] = field(default=())

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        budgets = {"epochs": self.epochs, "steps": self.steps, "minutes": self.minutes}
        given = {name: value for name, value in budgets.items() if value is not None}
        if len(given) != 1:
            said = ", ".join(f"{name}={value}" for name, value in given.items()) or "none"
            raise UserError(f"A run has one budget; given: {said}.", "Set one of epochs, steps or minutes.")
        name, value = next(iter(given.items()))
        if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
            raise UserError(f"{name}={value} is no budget.", "It must be a number above 0.")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision={self.precision!r} is not known.", f"Choose one of {', '.join(PRECISIONS)}.")
        for name in ("global_batch_size", "log_every", "keep_last", "max_skipped"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise UserError(f"{name}={value} cannot work.", "It must be a whole number of at least 1.")
        if self.max_norm is not None and not self.max_norm > 0:
            raise UserError(f"max_norm={self.max_norm} cannot work.", "It must be above 0, or None for no clipping.")

    def to_json(self) -> dict[str, Any]:
        return {item.name: to_json(getattr(self, item.name)) for item in fields(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Run":
        names = [item.name for item in fields(cls)]
        for name in data:
            if name not in names:
                raise UserError(f"{name!r} is not a field of a run.", suggest(name, names))
        return cls(**{name: from_json(value) for name, value in data.items()})

    def with_setting(self, assignment: str) -> "Run":
        """A copy with ``name=value`` or ``component.name=value`` applied.

        >>> from overnight.recipes import find
        >>> find("builtin")().with_setting("max_norm=0.5").max_norm
        0.5

        Raises:
            UserError: for an unknown name; it says which names there are.
        """
        path, equals, text = assignment.partition("=")
        if not equals:
            raise UserError(f"--set {assignment} has no value.", "Write it as --set name=value.")
        head, _, rest = path.strip().partition(".")
        names = [item.name for item in fields(self)]
        if head not in names:
            raise UserError(f"{head!r} is not a setting of a run.", suggest(head, names))
        current, value = getattr(self, head), _value(text)
        if not rest:
            if isinstance(current, partial) and not isinstance(value, str):
                raise UserError(f"{head} is a component.", f"Set one of its arguments: --set {head}.name=value.")
            if isinstance(current, partial):
                return self._with(head, partial(import_object(value), **current.keywords))
            return self._with(head, value)
        if not isinstance(current, partial):
            raise UserError(f"{head} has no settings of its own.", f"Set it with --set {head}=value.")
        return self._with(head, _set_inside(current, rest, value, head))

    def _with(self, name: str, value: Any) -> "Run":
        changes: dict[str, Any] = {name: value}
        return replace(self, **changes)


def _set_inside(component: Component, path: str, value: Any, where: str) -> Component:
    head, _, rest = path.partition(".")
    if rest:
        inner = component.keywords.get(head)
        if not isinstance(inner, partial):
            raise UserError(f"{where}.{head} has no settings of its own.", f"Set it with --set {where}.{head}=value.")
        value = _set_inside(inner, rest, value, f"{where}.{head}")
    return with_keyword(component, head, value, where)


def _value(text: str) -> Any:
    """Python literal, JSON literal or, failing both, the text itself."""
    for parse in (ast.literal_eval, json.loads):
        try:
            return parse(text)
        except (ValueError, SyntaxError):
            continue
    return text
