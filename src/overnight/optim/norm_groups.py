"""Groups for networks with norms: norms and biases neither decay nor are adapted, and may have their own rate."""

from torch import nn

from overnight.optim.groups import EXCLUDED, ParameterGroups, Rule, param_groups


def norm_groups(model: nn.Module, *, weight_decay: float, plain_lr: float | None = None) -> ParameterGroups:
    """Matrices and convolutions decay and are adapted; 1-D parameters (norms, biases) are and do neither.

    Args:
        model: whose parameters.
        weight_decay: of the former.
        plain_lr: rate of the latter; None for the optimizer's. An optimizer that takes a ratio of 0.001 or so has rates
            of 1 to 30, which what is not adapted would get in full.

    >>> model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    >>> [(group["param_names"], group.get("lr")) for group in norm_groups(model, weight_decay=1e-4, plain_lr=0.1)]
    [(['0.weight'], None), (['0.bias', '1.weight', '1.bias'], 0.1)]
    """
    own = () if plain_lr is None else (Rule({"lr": plain_lr}, max_ndim=1, why="1-D"),)
    return param_groups(model, (*own, *EXCLUDED), weight_decay=weight_decay)
