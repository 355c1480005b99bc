"""Whether a state dict belongs to an optimizer, before it is loaded."""

from typing import Any

from torch import Tensor


def check_state(optimizer: Any, state_dict: Any) -> None:
    """Raise a ValueError for what is not this optimizer's own.

    Args:
        optimizer: has ``param_groups``, ``defaults`` and ``state_names``.
        state_dict: what somebody wants to load.
    """
    kind = type(optimizer).__name__
    if not isinstance(state_dict, dict) or not {"state", "param_groups"} <= set(state_dict):
        raise ValueError("This is no optimizer state: it has no 'state' and 'param_groups'.")
    saved, mine = state_dict["param_groups"], optimizer.param_groups
    # settings that came later than the state take their defaults; these have always been there
    own = {"adapt", "variant"} | ({"betas", "momentum"} & set(optimizer.defaults))
    missing = sorted(own - {name for group in saved for name in group})
    if missing:
        raise ValueError(f"This is the state of an optimizer other than {kind}: it has no {', '.join(missing)}.")
    sizes, own_sizes = [len(group["params"]) for group in saved], [len(group["params"]) for group in mine]
    if sizes != own_sizes:
        raise ValueError(f"The state has parameter groups of {sizes} parameters, this {kind} has {own_sizes}.")
    for number, (theirs, ours) in enumerate(zip(saved, mine, strict=True)):
        names, own_names = theirs.get("param_names"), ours.get("param_names")
        if names is not None and own_names is not None and list(names) != list(own_names):
            raise ValueError(f"Parameter group {number} of the state has other parameters than this {kind}'s.")
        for position, (key, parameter) in enumerate(zip(theirs["params"], ours["params"], strict=True)):
            entry = state_dict["state"].get(key)
            if entry:
                _check_entry(f"parameter {position} of group {number}", entry, parameter, optimizer.state_names, kind)


def _check_entry(where: str, entry: dict[str, Any], parameter: Tensor, names: tuple[str, ...], kind: str) -> None:
    missing = sorted({"step", *names} - set(entry))
    if missing:
        raise ValueError(f"This is the state of an optimizer other than {kind}: {where} has no {', '.join(missing)}.")
    for name in names:
        if hasattr(entry[name], "to_local") != hasattr(parameter, "to_local"):
            raise ValueError(
                f"The state's {name} of {where} is a {type(entry[name]).__name__}, the parameter is not of that kind: "
                "use torch.distributed.checkpoint.state_dict.set_optimizer_state_dict for sharded parameters."
            )
        if tuple(entry[name].shape) != tuple(parameter.shape):
            raise ValueError(
                f"The state's {name} of {where} has shape {tuple(entry[name].shape)}, "
                f"the parameter {tuple(parameter.shape)}."
            )
