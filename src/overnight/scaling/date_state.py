"""What DATE on line watches, and its own state as plain data and back."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from overnight.scaling.warming import WarmUp

if TYPE_CHECKING:
    from overnight.scaling.date import DATE

COUNTERS = ("steps", "samples", "position", "rollbacks_made", "_warm_until", "_grown_at", "_stretched")


def watched(optimizer: torch.optim.Optimizer, model: nn.Module | None) -> list[tuple[str, nn.Parameter]]:
    """The parameters that are trained, by name: the model's, or the optimizer's by number."""
    if model is not None:
        named = [*model.named_parameters()]
    else:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        named = [(f"parameter {index}", p) for index, p in enumerate(parameters)]
    return [(name, parameter) for name, parameter in named if parameter.requires_grad]


def as_plain(date: "DATE") -> dict[str, Any]:
    """Everything that decides what it does next, but its snapshots."""
    return {
        **{name: getattr(date, name) for name in COUNTERS},
        "batch": [date.cut.full, date.global_batch_size],
        "following": date.following.state_dict(),
        "warm": date.warm.state_dict(),
        "sentry": date.sentry.state_dict(),
        "measuring": date.measuring.state_dict(),
    }


def put_back(date: "DATE", state: Mapping[str, Any]) -> None:
    """What ``as_plain`` gave, into one of the same batch and layers."""
    for name in COUNTERS:
        setattr(date, name, state[name])
    date.growth.reach(state["batch"][-1] / date.cut.together)
    date.following.load_state_dict(state["following"])
    date.warm = WarmUp.from_state(state["warm"])
    date.sentry.load_state_dict(state["sentry"])
    date.measuring.load_state_dict(state["measuring"])
