"""Base optimizers, what boosts them, and how long each task trains."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.seboost.applied import ByteTask, RatingTask
from benchmarks.seboost.tasks import Task, autoencoder, classifier, regression, resnet
from overnight.optim import SEBoost
from overnight.optim.subspace import Fixed, GaussNewton, NonlinearCG

BASES: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "momentum": lambda ps, lr: torch.optim.SGD(ps, lr, momentum=0.9),
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "nag": lambda ps, lr: torch.optim.SGD(ps, lr, momentum=0.9, nesterov=True),
}
ARMS: dict[str, dict[str, Any]] = {
    "base": {},
    "boost": {},
    "published": {"rule": NonlinearCG.published(), "every": 100, "accept": False, "momentum_column": 0.9},
    "gauss-newton": {"rule": GaussNewton(), "orthonormal": True},
    "lookahead": {"rule": Fixed(0.5), "every": 5, "history": 1},
}
"""``boost`` is the defaults but for l, which is the experiment's where an arm does not say it."""


@dataclass(frozen=True)
class Experiment:
    """How a task is trained.

    Attributes:
        task: made from the folder of data.
        gradients: budget of a run.
        every: l: the default of 200 where runs are long enough for it; else such that there are ten boosts or so.
        middle: rate of the grid's middle, by base optimizer: those that are tried.
        seeds: how many runs compare the best choices.
        others: arms that are compared around momentum only.
    """

    task: Callable[[Path], Task]
    gradients: int
    every: int
    middle: dict[str, float]
    seeds: int = 2
    others: tuple[str, ...] = ()


RULES = ("published", "gauss-newton", "lookahead")
EXPERIMENTS: dict[str, Experiment] = {
    "regression": Experiment(
        regression, 2000, 200, {"momentum": 0.03, "adam": 0.01, "sgd": 0.1, "adagrad": 0.1, "nag": 0.03}, others=RULES
    ),
    # a mean over 784 pixels has small gradients
    "autoencoder": Experiment(
        autoencoder, 400, 40, {"momentum": 5.0, "adam": 0.003, "sgd": 30.0, "adagrad": 0.03, "nag": 5.0}, others=RULES
    ),
    "classifier": Experiment(
        classifier, 400, 40, {"momentum": 0.05, "adam": 0.003, "sgd": 0.3, "adagrad": 0.03, "nag": 0.05}, others=RULES
    ),
    "recommender": Experiment(RatingTask, 250, 25, {"momentum": 0.3, "adam": 0.003}),
    "byte-lm": Experiment(ByteTask, 200, 20, {"momentum": 0.3, "adam": 0.01}),
    "resnet": Experiment(resnet, 100, 20, {"momentum": 0.05, "adam": 0.01, "sgd": 0.3, "adagrad": 0.03, "nag": 0.05}),
}


def build(
    task: Task, base: str, arm: str, rate: float, seed: int, every: int
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model and its optimizer; boost batches are drawn from all training samples."""
    torch.manual_seed(seed)
    model = task.model()
    optimizer = BASES[base](model.parameters(), lr=rate)
    if arm == "base":
        return model, optimizer
    settings = {"every": every, "rule": NonlinearCG(), **ARMS[arm]}
    if not settings["rule"].searches:
        return model, SEBoost(optimizer, **settings)
    given: dict[str, Any] = {"loss": lambda batch: task.loss(model, batch)}
    if settings["rule"].needs_outputs:
        rows: Any = task
        given = {"outputs": lambda batch: rows.outputs(model, batch), "loss": rows.criterion}
    batches: Callable[[int], Any] = lambda number: task.boost_batch(seed, number)  # noqa: E731
    return model, SEBoost(optimizer, model=model, batches=batches, **given, **settings)
