"""The state of optimizers that ranks have each for themselves, made one."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@torch.no_grad()
def even_out(optimizer: torch.optim.Optimizer, group: dist.ProcessGroup) -> None:
    """Give every rank the mean over the ranks of the optimizer's tensors, or rank 0's of those of whole numbers.

    Afterwards all have the same state, so that one of them can be saved, and any number of ranks go on from it. State
    that not every rank has (of a parameter without a gradient so far) is forgotten. Moments of rows, which may be
    of different steps, are first brought to the last one (``settle_moments``); counts of steps are rank 0's.

    Args:
        optimizer: the same on every rank but for its state.
        group: of the ranks; all must call it.
    """
    settle_moments = getattr(optimizer, "settle_moments", None)
    if settle_moments is not None:
        settle_moments()
    parameters = [p for settings in optimizer.param_groups for p in settings["params"]]
    mine = {place: sorted(optimizer.state.get(p, {})) for place, p in enumerate(parameters)}
    theirs: list[dict[int, list[str]]] = [{} for _ in range(group.size())]
    dist.all_gather_object(theirs, mine, group)
    for place, parameter in enumerate(parameters):
        if any(each[place] != mine[place] for each in theirs):
            optimizer.state.pop(parameter, None)
            continue
        for key in mine[place]:
            optimizer.state[parameter][key] = _even(
                optimizer.state[parameter][key], parameter.device, group, mean=key != "step"
            )


def _even(value: Any, device: torch.device, group: dist.ProcessGroup, mean: bool) -> Any:
    first = dist.get_process_group_ranks(group)[0]
    if not isinstance(value, Tensor):
        box = [value]
        dist.broadcast_object_list(box, first, group=group)
        return box[0]
    # the step counters of torch's optimizers are on the CPU, where NCCL cannot reach them
    moved = value.to(device)
    if mean and value.is_floating_point():
        dist.all_reduce(moved.div_(group.size()), group=group)
    else:
        dist.broadcast(moved, first, group=group)
    return value.copy_(moved)
