"""What the trainer asks of a way to train on several ranks; ``overnight.comm.strategies`` has those there are."""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from overnight.comm.meter import Meter
from overnight.errors import UserError
from overnight.train.build import construct
from overnight.train.components import to_json
from overnight.train.distributed import World
from overnight.train.run import Run


class Parallel(Protocol):
    """A module whose ranks train together.

    Attributes:
        name: under which its state is saved.
        module: what is called in training.
        meter: counts the bytes and seconds of exchanges; None where there are none to count.
        synchronous: every update is of all ranks' gradients; otherwise ranks decide for themselves until they meet.
        per_rank: each rank's ``state_dict`` is saved, not only rank 0's.
        sharded: each rank has a part of every weight only, a ``DTensor``, in the optimizer too.
    """

    name: str
    module: nn.Module
    meter: Meter | None
    synchronous: bool
    per_rank: bool
    sharded: bool

    @property
    def met(self) -> bool:
        """Whether all ranks have the same weights after the last update."""

    def no_sync(self) -> AbstractContextManager[Any]:
        """Around forward and backward of all micro-batches but the last."""

    def skipped(self) -> None:
        """The update of the last backward is not made; before ``after_update``."""

    def after_update(self) -> None:
        """After each update, also one that was skipped."""

    def forget(self) -> None:
        """Undo what a backward before the first update has left."""

    def before_checkpoint(self) -> None:
        """Make all ranks' weights alike, for an evaluation or a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """What is saved beside weights and optimizer, which are read after it; every rank calls it."""

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on from a saved state, or begin anew from an empty one, with the weights as they are now."""

    def close(self) -> None:
        """Give up the exchange."""


Maker = Callable[..., Parallel]
"""(module, optimizer, loss_scale) → Parallel."""


def maker(run: Run, data: Any) -> Maker | None:
    """What makes the run's own way; None for the trainer's, which is DDP.

    Args:
        run: has the component.
        data: its ``digest``, if it has one, is compared over the ranks.
    """
    if run.parallel is None:
        return None
    component, digest = run.parallel, str(getattr(data, "digest", ""))

    def make(**given: Any) -> Parallel:
        made: Parallel = construct("parallel", component, data=digest, seed=run.seed, **given)
        asked = ("no_sync", "skipped", "after_update", "state_dict")
        lacking = [name for name in asked if not callable(getattr(made, name, None))]
        if lacking:
            raise UserError(
                f"parallel is a {type(made).__name__}, which has no {lacking[0]}().", "See overnight.comm.strategies."
            )
        return made

    return make


def settings_digest(run: Run, model: nn.Module) -> str:
    """Identity of what ranks must have alike to exchange anything: the parameters' shapes, and how it is done."""
    shapes = [f"{name} {list(p.shape)} {p.dtype} {p.requires_grad}" for name, p in model.named_parameters()]
    return hashlib.sha256(json.dumps([shapes, to_json(run.parallel)]).encode()).hexdigest()


def save_parallel(parallel: Parallel, world: World) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Tensors and plain data of a way's state; a collective, whole on rank 0 only.

    Where each rank has its own, the tensors' first dimension is the rank.
    """
    tensors, plain = _apart(parallel.state_dict())
    if parallel.per_rank:
        tensors = world.gather_lanes({name: t.unsqueeze(0).to(world.device) for name, t in tensors.items()})
    return tensors, ({"strategy": parallel.name} | plain if plain else None)


def load_parallel(
    parallel: Parallel, tensors: Mapping[str, Tensor], plain: Mapping[str, Any] | None, world: World
) -> None:
    """Give a way the state that was saved, or none if it was another's.

    Raises:
        UserError: if it is of another plan, or was each rank's own and there are other ranks now.
    """
    if plain is None or plain["strategy"] != parallel.name:
        parallel.load_state_dict({})
        return
    state: dict[str, Any] = {name: value for name, value in plain.items() if name != "strategy"}
    if state.get("mode") == "per_rank" and state.get("ranks") == world.world_size:
        tensors = {name: tensor[world.rank] for name, tensor in tensors.items()}
        state["rank"] = world.rank
    for path, tensor in tensors.items():
        group, _, name = path.partition("/")
        state[group][name] = tensor
    parallel.load_state_dict(state)


def _apart(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """``{"residual": {"weight": …}, "step": 3}`` → ``{"residual/weight": …}``, ``{"residual": {}, "step": 3}``."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for group, value in state.items():
        if isinstance(value, Mapping):
            tensors |= {f"{group}/{name}": each for name, each in value.items() if isinstance(each, Tensor)}
            plain[group] = {name: each for name, each in value.items() if not isinstance(each, Tensor)}
        else:
            plain[group] = value
    return tensors, plain


def one_scale(scaler: torch.amp.GradScaler | None, world: World) -> None:
    """Give every rank rank 0's scale of the loss, where each has its own."""
    if scaler is not None:
        scaler.load_state_dict(world.broadcast_object(scaler.state_dict()))
