"""Where a run begins that does not begin anew: with the weights of another run, and what its optimizer knew."""

from pathlib import Path

import torch
from torch import nn

from overnight.errors import UserError
from overnight.train.checkpoint import choose_checkpoint, load_checkpoint, load_weights, unflatten_optimizer
from overnight.train.components import import_path
from overnight.train.sharded import fit_state


def from_run(
    *,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    run: str,
    checkpoint: str = "last",
    optimizer_state: bool = True,
    only: str = "",
) -> None:
    """Put the weights of another run into a model before its first step; step, schedule and data begin anew.

    Every host reads the run folder itself.

    Args:
        model, optimizer: the trainer's.
        run: the other run's folder.
        checkpoint: ``last``, ``best`` or a step.
        optimizer_state: with the moments of the optimizer; its settings are the new run's.
        only: take the weights whose names begin so, and leave the model's others as they are.

    Raises:
        UserError: if there is no such checkpoint, or it is of another architecture or optimizer.
    """
    path = choose_checkpoint(Path(run), checkpoint)
    loaded = load_checkpoint(path, ("model", "optimizer"))
    if only:
        own = model.state_dict()
        wanted = {name for name in own if name.startswith(only)}
        weights = {name: tensor for name, tensor in loaded.model.items() if name in wanted}
        if not weights:
            raise UserError(f"Checkpoint {path} holds no weights named {only}…", "Name a run of such a model.")
        part = {name: weights.get(name, own[name]) for name in own}
        missing = sorted(wanted - set(weights))
        if missing:
            raise UserError(f"Checkpoint {path} lacks {missing[0]}.", "Name a run of such a model.")
        load_weights(model, part, path)
    else:
        load_weights(model, loaded.model, path)
    if not optimizer_state:
        return
    ours, theirs = import_path(type(optimizer)), loaded.state["optimizer_class"]
    if ours != theirs:
        raise UserError(
            f"Checkpoint {path} holds the state of {theirs}; this run has {ours}.",
            "Take the optimizer that it was trained with.",
        )
    settings = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(
            fit_state(optimizer, unflatten_optimizer(loaded.optimizer, loaded.state["optimizer"]))
        )
    except ValueError as error:
        raise UserError(f"Checkpoint {path} does not fit the optimizer: {error}.", "Take the groups it had.") from error
    for group, own_settings in zip(optimizer.param_groups, settings, strict=True):
        group.update(own_settings)
