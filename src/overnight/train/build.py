"""The parts of a run, from its components; whatever a constructor does not accept is said in one sentence."""

import inspect
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from overnight.errors import UserError
from overnight.metrics import metric_of
from overnight.schedule.curves import Progress
from overnight.train.average import WeightAverage
from overnight.train.batches import BatchPlan, plan_batches
from overnight.train.components import Component, import_path
from overnight.train.distributed import World
from overnight.train.precision import Precision, choose_precision
from overnight.train.run import Run


@dataclass(frozen=True)
class Parts:
    """What a rank trains with; ``peaks`` are the peak rates of the optimizer's parameter groups.

    ``ema`` is the average of the weights, of a run that has one.
    """

    precision: Precision
    plan: BatchPlan
    data: Any
    task: Any
    optimizer: torch.optim.Optimizer
    peaks: list[float]
    ema: WeightAverage | None


def build(run: Run, world: World) -> Parts:
    """Make the parts on this rank's device. Nothing is written and nothing communicated.

    Raises:
        UserError: for settings that a part does not accept.
    """
    precision = choose_precision(world.device, run.precision)
    plan = plan_batches(run.global_batch_size, world.world_size, run.micro_batch_size)
    data = construct("data", run.data, lanes=run.global_batch_size, seed=run.seed)
    torch.manual_seed(run.seed)  # the same weights on every rank
    model = _module(construct("model", run.model), "model").to(world.device)
    task: Any = _module(construct("task", run.task, model=model), "task").to(world.device)
    for method in ("initial_carry", "count"):
        if not callable(getattr(task, method, None)):
            raise UserError(f"{import_path(run.task.func)} is no task: it has no {method}().", "See overnight.tasks.")
    metric_of(task)
    task.train()
    optimizer = _optimizer(run, model)
    construct("schedule", run.schedule, progress=Progress(0, run.global_batch_size, 2 * run.global_batch_size))
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    return Parts(precision, plan, data, task, optimizer, peaks, average_of(run, model))


def average_of(run: Run, model: torch.nn.Module) -> WeightAverage | None:
    """The average of the model's weights, of a run that has one."""
    if run.ema is None:
        return None
    average: WeightAverage = construct("ema", run.ema, model=model, batch=run.global_batch_size)
    return average


def construct(name: str, component: Component, **given: Any) -> Any:
    """Call a component.

    Raises:
        UserError: if it does not accept its settings.
    """
    if not isinstance(component, partial):
        raise UserError(f"{name}={component!r} is not a component.", f"Set --set {name}=IMPORT.PATH.")
    try:
        return component(**given)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
        raise UserError(
            f"The {name} ({import_path(component.func)}) does not accept its settings: {reason}.",
            f"See --set {name}.NAME=VALUE.",
        ) from error


def _module(made: Any, name: str) -> torch.nn.Module:
    if not isinstance(made, torch.nn.Module):
        raise UserError(
            f"The {name} is a {type(made).__name__}, not a torch.nn.Module.", f"Set --set {name}=IMPORT.PATH."
        )
    return made


def _optimizer(run: Run, model: torch.nn.Module) -> torch.optim.Optimizer:
    parameters: Any = [p for p in model.parameters() if p.requires_grad]
    if run.param_groups is not None:
        parameters = construct("param_groups", run.param_groups, model=model)
    optimizer = construct("optimizer", run.optimizer, params=parameters)
    path = import_path(run.optimizer.func)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(f"{path} is no torch.optim.Optimizer.", "Give an import path such as torch.optim.AdamW.")
    closure = inspect.signature(type(optimizer).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"{path} calls the loss itself, several times a step; the trainer does not.",
            "Choose one whose step needs no closure, such as torch.optim.AdamW.",
        )
    return optimizer
