"""SEBoost's part of a state dict: per-parameter tensors in ``state``, counters in every group."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.optim.subspace.buffer import DisplacementBuffer, Weight
from overnight.optim.trust_ratio import local

PREFIX = "boost_"
COUNTERS = "boost"


def pack(
    packed: dict[str, Any],
    counters: dict[str, Any],
    buffer: DisplacementBuffer,
    weights: Sequence[Weight],
    momenta: Sequence[Tensor | None],
) -> None:
    """Add to what the base optimizer's ``state_dict()`` gave."""
    # copies: the groups are the optimizer's own dicts in some base optimizers
    packed["param_groups"] = [{**group, COUNTERS: dict(counters)} for group in packed["param_groups"]]
    packed["state"] = dict(packed["state"])
    keys = [key for group in packed["param_groups"] for key in group["params"]]
    for key, stored, weight, momentum in zip(keys, buffer.stored, weights, momenta, strict=False):
        entry = dict(packed["state"].get(key, {}))
        entry[f"{PREFIX}point"] = _shaped(stored.point, weight.parameter)
        for number, row in enumerate(stored.rows):
            entry[f"{PREFIX}row_{number}"] = _shaped(row, weight.parameter)
        if momentum is not None:
            entry[f"{PREFIX}momentum"] = _shaped(momentum, weight.parameter)
        packed["state"][key] = entry


def split(state_dict: Any, rows: int) -> tuple[dict[str, Any], dict[str, Any] | None, list[dict[str, Tensor]]]:
    """The base optimizer's part, the counters (None where it never was SEBoost's), and the tensors by parameter.

    Raises:
        UserError: for what is no optimizer state, or one with another number of rows.
    """
    if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= set(state_dict):
        raise UserError("This is no optimizer state: it has no 'state' and 'param_groups'.", "Give a state_dict().")
    groups = [dict(group) for group in state_dict["param_groups"]]
    found = [group.pop(COUNTERS, None) for group in groups]
    state, ours = {}, {}
    for key, entry in state_dict["state"].items():
        theirs = {name: value for name, value in entry.items() if not name.startswith(PREFIX)}
        ours[key] = {name.removeprefix(PREFIX): v for name, v in entry.items() if name.startswith(PREFIX)}
        if theirs:
            state[key] = theirs
    ordered = [ours.get(key, {}) for group in groups for key in group["params"]]
    counters = found[0] if found else None
    if counters is not None:
        saved = max((sum(name.startswith("row_") for name in entry) for entry in ordered), default=0)
        if saved and saved != rows:
            raise UserError(
                f"The state has {saved} displacement rows, this SEBoost {rows}.",
                "Build it with the history, anchors, momentum column and rule that it was saved with.",
            )
    return {**state_dict, "state": state, "param_groups": groups}, counters, ordered


def check(entries: Sequence[dict[str, Tensor]], weights: Sequence[Weight]) -> None:
    """Raise a UserError for tensors that do not fit their parameters."""
    if len(entries) != len(weights):
        raise UserError(
            f"The state is of {len(entries)} parameters, this SEBoost has {len(weights)}.", "Give it the same model."
        )
    for number, (entry, weight) in enumerate(zip(entries, weights, strict=True)):
        for name, value in entry.items():
            if hasattr(value, "to_local") != hasattr(weight.parameter, "to_local"):
                raise UserError(
                    f"The state's {PREFIX}{name} of parameter {number} is a {type(value).__name__}, "
                    "the parameter is not of that kind.",
                    "Use torch.distributed.checkpoint.state_dict for sharded parameters.",
                )
            if value.shape != weight.parameter.shape:
                raise UserError(
                    f"The state's {PREFIX}{name} of parameter {number} has shape {tuple(value.shape)}, "
                    f"the parameter {tuple(weight.parameter.shape)}.",
                    "Give it the same model.",
                )


def restore(buffer: DisplacementBuffer, entries: Sequence[dict[str, Tensor]]) -> list[Tensor | None]:
    """Fill the buffer, which has room for all; the momenta that were kept."""
    momenta: list[Tensor | None] = []
    for stored, entry in zip(buffer.stored, entries, strict=True):
        if "point" in entry:
            stored.point.copy_(_flat(entry["point"]))
            for number, row in enumerate(stored.rows):
                row.copy_(_flat(entry[f"row_{number}"]))
        momenta.append(_flat(entry["momentum"]).clone() if "momentum" in entry else None)
    return momenta


def _flat(value: Tensor) -> Tensor:
    return local(value).detach().reshape(-1)


def _shaped(flat: Tensor, parameter: Any) -> Tensor:
    """In the shape of its parameter; a part of a sharded one as a DTensor, which can be cut anew."""
    part: Tensor = flat.view(local(parameter).shape)
    if not hasattr(parameter, "to_local"):
        return part
    from torch.distributed.tensor import DTensor

    shape, stride = parameter.shape, torch.empty(parameter.shape, device="meta").stride()
    mesh, placements = parameter.device_mesh, parameter.placements
    # a copy: a DTensor that starts inside a storage cannot be copied itself
    return DTensor.from_local(part.clone(), mesh, placements, run_check=False, shape=shape, stride=stride)
