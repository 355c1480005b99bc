"""A run: one frozen value that says everything, and its JSON."""

import ast
import json
import math
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any

from overnight.errors import UserError
from overnight.train.components import (
    Component,
    from_json,
    import_object,
    keyword_names,
    suggest,
    to_json,
    with_keyword,
)

FORMAT = "overnight-run/1"
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
LEAST = {
    "steps": 1,
    "global_batch_size": 1,
    "micro_batch_size": 1,
    "seed": 0,
    "evaluations": 0,
    "log_every": 1,
    "checkpoint_steps": 0,
    "keep_last": 1,
    "max_skipped": 1,
    "threads": 1,
}
"""Least value of the settings that are whole numbers."""
NONE_MEANS = {
    "epochs": "",
    "steps": "",
    "minutes": "",
    "micro_batch_size": ", or None for the whole share of a rank",
    "max_norm": ", or None for no clipping",
    "threads": ", or None for torch's choice",
}
"""Settings that may be None, and how an error says so."""
GIVEN = {
    "task.model": "model",
    "data.lanes": "global_batch_size",
    "data.seed": "seed",
    "optimizer.params": "model",
    "param_groups.model": "model",
    "schedule.progress": "the budget",
    "evaluate.model": "model",
    "evaluate.autocast_dtype": "precision",
    "evaluate.final": "evaluations",
    "ema.model": "model",
    "ema.batch": "global_batch_size",
    "sample.model": "model",
    "start.model": "model",
    "start.optimizer": "optimizer",
    "parallel.module": "model",
    "parallel.data": "data",
    "parallel.seed": "seed",
    "parallel.loss_scale": "precision",
    "parallel.optimizer": "optimizer",
    "boost.base": "optimizer",
    "boost.model": "model",
    "boost.loss": "task",
    "boost.batches": "data",
    "boost.process_group": "the ranks",
    "adapt.optimizer": "optimizer",
    "adapt.model": "model",
    "adapt.schedule": "schedule",
    "adapt.global_batch_size": "global_batch_size",
    "adapt.micro_batch_size": "micro_batch_size",
    "adapt.total_samples": "the budget",
}
"""Arguments of components that the trainer gives, and what they follow from."""

OPTIONAL = ("evaluate", "sample", "start", "baselines", "param_groups", "ema", "parallel", "adapt", "boost")
"""Components that may be None."""


@dataclass(frozen=True)
class Run:
    """Everything that decides a training run. Components are ``functools.partial`` s with keyword arguments only.

    Attributes:
        recipe: name of the recipe that made it.
        model: () → nn.Module.
        task: (model) → Task.
        data: (lanes, seed) → an object with ``at(step, first, count)`` and ``steps_per_epoch``.
        optimizer: (params) → torch.optim.Optimizer; its ``lr`` is the peak rate.
        param_groups: (model) → parameter groups; None makes one of all that is trained.
        schedule: (Progress) → factor of the peak rate.
        global_batch_size: samples (lanes) of one optimizer update, over all ranks.
        micro_batch_size: samples of one forward and backward on one rank; None takes the rank's whole share.
        epochs, steps, minutes: the budget; exactly one is given.
        precision: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        max_norm: gradients are clipped to this global L2 norm; None clips nothing.
        seed: of initial weights, data and dropout; of a model that draws (a sampled softmax) its ``seed`` is the same.
        evaluate: (model, autocast_dtype, final) → evaluation record; None evaluates nothing.
        evaluations: how many evaluations, evenly over the budget; the last is at the end.
        sample: (model) → sampled text; None samples nothing.
        baselines: () → list of ``{name, bits_per_byte}`` (or another metric) to stand beside the result.
        log_every: steps between logging lines.
        checkpoint_minutes: minutes between checkpoints, beside those at evaluations.
        checkpoint_steps: steps between checkpoints; 0 for none of this kind.
        keep_last: checkpoints kept, beside the best.
        max_skipped: so many skipped steps in a row stop the run.
        threads: CPU threads of torch; None leaves torch's choice.
        start: (model, optimizer) → None: puts in what the run begins with (``overnight.train.start.from_run``); None
            begins anew.
        ema: (model, batch) → ``overnight.train.average.WeightAverage``: what is evaluated in the place of the weights.
        parallel: (module, data, seed, loss_scale, optimizer) → how ranks train together (``overnight.train.parallel``);
            None is DDP.
        adapt: (optimizer, model, schedule, …) → what sets the rate and the batch as training goes, and takes it back
            (``overnight.train.adapt``, ``overnight.scaling.DATE``); None leaves them to the schedule.
        boost: (base, model, loss, process_group) → an optimizer around the run's own that now and then searches for a
            better point (``overnight.train.boost``, ``overnight.optim.SEBoost``); None for none.
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
    param_groups: Component | None = None
    notes: tuple[str, ...] = field(default=())
    start: Component | None = None
    ema: Component | None = None
    parallel: Component | None = None
    adapt: Component | None = None
    boost: Component | None = None

    def check(self) -> None:
        """Raise UserError for values that cannot work together."""
        budgets = {"epochs": self.epochs, "steps": self.steps, "minutes": self.minutes}
        given = {name: value for name, value in budgets.items() if value is not None}
        if len(given) != 1:
            said = ", ".join(f"{name}={value}" for name, value in given.items()) or "none"
            raise UserError(f"A run has one budget; given: {said}.", "Set one of epochs, steps or minutes.")
        if self.precision not in PRECISIONS:
            raise UserError(f"precision={self.precision!r} is not known.", f"Choose one of {', '.join(PRECISIONS)}.")
        if self.parallel is not None and not isinstance(self.parallel, partial):
            raise UserError(f"parallel={self.parallel!r} is not a component.", "Set --set parallel=IMPORT.PATH.")
        if self.adapt is not None and self.parallel is not None:
            raise UserError(
                "adapt needs gradients that are those of the whole batch, and parallel gives others.",
                "Leave out --parallel, or take another --rule.",
            )
        if self.adapt is not None and self.boost is not None:
            raise UserError("adapt measures steps, and boost jumps between them.", "Leave out boost, or --rule date.")
        for name, least in LEAST.items():
            value = getattr(self, name)
            good = isinstance(value, int) and not isinstance(value, bool) and value >= least
            if not good and not (value is None and name in NONE_MEANS):
                said = f"a whole number of at least {least}{NONE_MEANS.get(name, '')}"
                raise UserError(f"{name}={value!r} cannot work.", f"It must be {said}.")
        for name in ("epochs", "minutes", "checkpoint_minutes", "max_norm"):
            value = getattr(self, name)
            good = isinstance(value, (int, float)) and math.isfinite(value) and value > 0
            if not good and not (value is None and name in NONE_MEANS):
                said = f"a number above 0{NONE_MEANS.get(name, '')}"
                raise UserError(f"{name}={value!r} cannot work.", f"It must be {said}.")

    def to_json(self) -> dict[str, Any]:
        return {item.name: to_json(getattr(self, item.name)) for item in fields(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any], trust: bool = False) -> "Run":
        """What ``to_json`` wrote → a run; ``trust`` imports whatever it names (see ``components.from_json``).

        Raises:
            UserError: for a field that is unknown, missing or not understood, or a component that cannot be imported.
        """
        names = [item.name for item in fields(cls)]
        for name in data:
            if name not in names:
                raise UserError(f"{name!r} is not a field of a run.", suggest(name, names))
        try:
            return cls(**{name: from_json(value, trust) for name, value in data.items()})
        except (KeyError, TypeError) as error:
            raise UserError(f"This run.json is not whole: {error}.", "Restore it from a copy.") from error

    def with_setting(self, assignment: str) -> "Run":
        """A copy with ``name=value`` or ``component.name=value`` applied.

        ``run.with_setting("max_norm=0.5")``, ``run.with_setting("optimizer.weight_decay=0.1")``.

        Raises:
            UserError: for an unknown name; it says which names there are.
        """
        path, equals, text = assignment.partition("=")
        path = path.strip()
        if not equals or not path:
            raise UserError(f"--set {assignment} is no setting.", "Write it as --set NAME=VALUE.")
        head, _, rest = path.partition(".")
        names = [item.name for item in fields(self)]
        if head not in names:
            raise UserError(f"{head!r} is not a setting of a run.", suggest(head, names))
        current, value = getattr(self, head), _value(text)
        if not rest:
            if current is None and head in OPTIONAL and isinstance(value, str):
                return self._with(head, _exchanged(None, import_object(value)))
            if not isinstance(current, partial) or (value is None and head in OPTIONAL):
                changed = self._with(head, value)
                # one seed for all that draws, unless the model was given another
                if head == "seed" and self.model.keywords.get("seed") == self.seed:
                    changed = changed._with("model", with_keyword(self.model, "seed", value, "model"))
                return changed
            if not isinstance(value, str):
                raise UserError(f"{head} is a component.", f"Set one of its arguments: --set {head}.name=value.")
            return self._with(head, _exchanged(current, import_object(value)))
        if path in GIVEN:
            raise UserError(f"{path} is not a setting: it follows from {GIVEN[path]}.", "Set that instead.")
        if not isinstance(current, partial):
            raise UserError(f"{head} has no settings of its own.", f"Set it with --set {head}=value.")
        changed = self._with(head, _set_inside(current, rest, value, head))
        # one corpus for training, evaluation and baselines: where it is moved to, all of them read it
        if path == "data.corpus":
            for name in ("evaluate", "baselines"):
                part = getattr(self, name)
                if isinstance(part, partial) and part.keywords.get("corpus") == current.keywords.get("corpus"):
                    changed = changed._with(name, with_keyword(part, "corpus", value, name))
        return changed

    def _with(self, name: str, value: Any) -> "Run":
        changes: dict[str, Any] = {name: value}
        return replace(self, **changes)


def _exchanged(component: Component | None, target: Any) -> Component:
    """Another constructor, with those of the settings that it takes."""
    if not callable(target):
        raise UserError(f"{target!r} cannot be called.", "Give the import path of a class or function.")
    names, kept = keyword_names(target), component.keywords if component is not None else {}
    return partial(target, **{k: v for k, v in kept.items() if names is None or k in names})


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
            value = parse(text)
        except (ValueError, SyntaxError):
            continue
        if value is None or isinstance(value, (bool, int, float, str, list, tuple)):
            return value
    return text
