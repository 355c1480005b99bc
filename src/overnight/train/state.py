"""The moving parts of a run, and their way into a checkpoint and back."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from overnight.errors import UserError
from overnight.train.adapt import Adapt, load_adapt
from overnight.train.average import WeightAverage
from overnight.train.checkpoint import (
    GROUPS,
    Checkpoint,
    choose_checkpoint,
    flatten_optimizer,
    is_sharded,
    load_checkpoint,
    load_weights,
    unflatten_optimizer,
)
from overnight.train.components import import_path
from overnight.train.distributed import World
from overnight.train.parallel import load_parallel, one_scale, save_parallel
from overnight.train.sharded import FOLDER, check_shared, fit_state, is_spread, manners, read_parts
from overnight.train.step import Stepper


@dataclass
class State:
    """Where a run stands.

    Attributes:
        step: optimizer updates tried, skipped ones counted: the position in the data.
        applied: samples of the updates made: the position in the schedule.
        tokens: targets seen, over all ranks.
        seconds: wall-clock time in the loop, over restarts.
        skipped: updates skipped for a non-finite loss or gradient; skipped_in_a_row of them just now.
        carry: recurrent state of this rank's lanes.
        best: step and bits per byte of the best evaluation so far.
        last_evaluation: the newest evaluation's record.
    """

    carry: dict[str, Tensor]
    step: int = 0
    applied: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best: dict[str, Any] | None = None
    last_evaluation: dict[str, Any] | None = None

    def plain(self) -> dict[str, Any]:
        """Everything but the carry, as plain data."""
        return {item.name: getattr(self, item.name) for item in fields(self) if item.name != "carry"}


@dataclass
class Apart:
    """What this rank did since the ranks last met, where each decides for itself.

    Attributes:
        tokens: targets seen.
        skipped: updates skipped; ``in_a_row`` of them just now, which no meeting resets.
    """

    tokens: int = 0
    skipped: int = 0
    in_a_row: int = 0

    def add(self, tokens: int, skipped: bool) -> None:
        """One update tried."""
        self.tokens += tokens
        self.skipped += skipped
        self.in_a_row = self.in_a_row + 1 if skipped else 0

    def join(self, state: State, world: World, batch: int) -> None:
        """Put it into the state that all ranks share: the skips are those of the rank with the most.

        Args:
            state: whose ``applied`` has counted every update as made.
            world: the ranks.
            batch: samples of one update.
        """
        skips = torch.tensor([self.skipped, self.in_a_row], dtype=torch.int64, device=world.device)
        skipped, state.skipped_in_a_row = world.all_reduce(skips, dist.ReduceOp.MAX).tolist()
        state.tokens += world.sum(self.tokens)
        state.skipped += skipped
        state.applied -= skipped * batch
        self.tokens = self.skipped = 0


def capture(
    state: State,
    stepper: Stepper,
    world: World,
    total_samples: float,
    ema: WeightAverage | None = None,
    adapt: Adapt | None = None,
) -> Checkpoint:
    """Everything as a checkpoint; a collective, whose value is whole on rank 0 only, but for its shards."""
    parallel, plain_parallel = save_parallel(stepper.parallel, world)
    if not stepper.parallel.synchronous:
        one_scale(stepper.scaler, world)
    tensors, plain = flatten_optimizer(stepper.optimizer)
    rng = {"cpu": torch.get_rng_state().unsqueeze(0)}
    if world.device.type == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state(world.device).unsqueeze(0)
        rng = {name: tensor.to(world.device) for name, tensor in rng.items()}
    data = state.plain() | {
        "optimizer_class": import_path(type(stepper.optimizer)),
        "optimizer": plain,
        "scaler": stepper.scaler.state_dict() if stepper.scaler is not None else None,
        "total_samples": total_samples if total_samples != float("inf") else None,
        "world_size": world.world_size,
        **({"parallel": plain_parallel} if plain_parallel is not None else {}),
        **({"adapt": adapt.state_dict()} if adapt is not None else {}),
    }
    kept = {
        "model": stepper.task.model.state_dict(),
        "optimizer": tensors,
        "ema": ema.weights if ema is not None else {},
    }
    shards = {f"{group}/{name}": t.detach() for group in kept for name, t in kept[group].items() if is_spread(t)}
    here = {group: {name: t.cpu() for name, t in found.items() if not is_spread(t)} for group, found in kept.items()}
    carry, generators = world.gather_lanes(state.carry), world.gather_lanes(rng)
    return Checkpoint(here["model"], here["optimizer"], carry, generators, data, here["ema"], parallel, shards)


def restore(
    folder: Path,
    which: str,
    state: State,
    stepper: Stepper,
    world: World,
    lanes: int,
    settings: Collection[str],
    ema: WeightAverage | None = None,
    adapt: Adapt | None = None,
) -> None:
    """Put a checkpoint back; rank 0 reads it and the others receive it. Where both are sharded, ranks read their parts.

    Args:
        folder: the run folder.
        which: ``last``, ``best`` or a step.
        state, stepper: where it goes.
        world: the ranks.
        lanes: of the whole batch.
        settings: options of the optimizer that the run decides; they hold, whatever the checkpoint has.
        ema: the average of the weights, if the run has one.
        adapt: what sets rate and batch, if the run has such.

    Raises:
        UserError: if it is absent, damaged, of another architecture or optimizer, or of another number of lanes.
    """

    def read() -> tuple[Path, Checkpoint]:
        path = choose_checkpoint(folder, which)
        return path, load_checkpoint(path, shards=not stepper.parallel.sharded)

    path, loaded = world.on_main(read) or (None, None)
    said = (path, loaded.state, is_sharded(path)) if path is not None and loaded is not None else None
    path, data, in_shards = world.broadcast_object(said)
    groups = {name: world.broadcast_tensors(getattr(loaded, name) if loaded is not None else None) for name in GROUPS}

    if stepper.parallel.sharded and in_shards:
        world.together(lambda: check_shared(path / FOLDER))
        likes = manners(stepper.task.model, stepper.optimizer, ema)
        for name, tensors in world.alike(lambda: read_parts(path / FOLDER, GROUPS, likes)).items():
            groups[name] |= tensors

    def put_back() -> None:
        load_weights(stepper.task.model, groups["model"], path)
        _load_optimizer(stepper.optimizer, groups["optimizer"], data, path, settings)
        if ema is not None:
            ema.load(groups["ema"])
        load_parallel(stepper.parallel, groups["parallel"], data.get("parallel"), world)
        share = lanes // world.world_size
        for name, own in state.carry.items():
            whole = groups["carry"].get(name)
            if whole is None or whole.shape[0] != lanes:
                found = "no" if whole is None else str(whole.shape[0])
                raise UserError(
                    f"Checkpoint {path} carries the state of {found} lanes; this run has {lanes}.",
                    "Resume with the batch size that it was trained with.",
                )
            state.carry[name] = whole[world.rank * share : (world.rank + 1) * share].to(own.device)

    world.together(put_back)
    load_adapt(adapt, data.get("adapt"), path)
    if stepper.scaler is not None and data["scaler"]:
        stepper.scaler.load_state_dict(data["scaler"])
    for name in state.plain():
        setattr(state, name, data[name])
    # another number of ranks cannot have the same generators: each goes on from the one it has
    if data["world_size"] == world.world_size:
        # clones, since torch 2.13 crashes on a view that does not start where its storage does
        torch.set_rng_state(groups["rng"]["cpu"][world.rank].clone())
        if world.device.type == "cuda" and "cuda" in groups["rng"]:
            torch.cuda.set_rng_state(groups["rng"]["cuda"][world.rank].clone(), world.device)


def _load_optimizer(
    optimizer: torch.optim.Optimizer,
    tensors: Mapping[str, Tensor],
    data: Mapping[str, Any],
    path: Path,
    settings: Collection[str],
) -> None:
    ours, theirs = import_path(type(optimizer)), data["optimizer_class"]
    if ours != theirs:
        raise UserError(
            f"Checkpoint {path} holds the state of {theirs}; this run has {ours}.",
            "Resume with the optimizer that it was trained with.",
        )
    own = [{name: group[name] for name in settings if name in group} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(fit_state(optimizer, unflatten_optimizer(tensors, data["optimizer"])))
    except ValueError as error:
        raise UserError(f"Checkpoint {path} does not fit the optimizer: {error}.", "Resume without --set.") from error
    for group, options in zip(optimizer.param_groups, own, strict=True):
        group.update(options)
    # a checkpoint holds them in rows; with another layout than its weight's, an update adds up in another order
    for parameter, entry in optimizer.state.items():
        for name, value in entry.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                entry[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
