"""Which parameters, and which rows of them, have changed since a worker saw them.

Shape suffixes: R rows.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Optimizer, SparseAdam

from overnight.comm.checks import sparse_parameters
from overnight.comm.plan import HiddenRows, Plan, Rows

NEVER = -1


def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """What server and workers exchange: the parameters that are trained, tied ones once."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def by_rows(model: nn.Module, plan: Plan) -> list[str]:
    """Parameters that are exchanged by rows: of sparse gradients, or with a rule of rows."""
    sparse = sparse_parameters(model)
    return [
        name
        for name, p in parameters_of(model).items()
        if name in sparse or (isinstance(plan.rule(name), Rows | HiddenRows) and p.ndim)
    ]


class Versions:
    """Of every parameter the version at which it changed last, and of those by rows that of every row.

    Args:
        parameters: by name.
        rows: names of those by rows.
        start: of all.
    """

    def __init__(self, parameters: Mapping[str, Tensor], rows: Iterable[str], start: int) -> None:
        kept = set(rows)
        self.whole = {name: start for name in parameters if name not in kept}
        self.rows = {name: torch.full((len(parameters[name]),), start) for name in parameters if name in kept}

    def changed(self, name: str, version: int, ids_R: Tensor | None = None) -> None:
        """This parameter, or these rows of it, changed with this version."""
        if name in self.whole:
            self.whole[name] = version
        elif ids_R is None:
            self.rows[name].fill_(version)
        else:
            self.rows[name][ids_R] = version

    def newer(self, name: str, seen: "Versions", ids_R: Tensor | None = None) -> Tensor:
        """Rows that have changed since they were seen, of these or of all."""
        if ids_R is None:
            return (self.rows[name] > seen.rows[name]).nonzero()[:, 0]
        return ids_R[self.rows[name][ids_R] > seen.rows[name][ids_R]]

    def saw(self, name: str, of: "Versions", ids_R: Tensor | None = None) -> None:
        """Note that this parameter, or these rows of it, are now as they are there."""
        if name in self.whole:
            self.whole[name] = of.whole[name]
        elif ids_R is None:
            self.rows[name].copy_(of.rows[name])
        else:
            self.rows[name][ids_R] = of.rows[name][ids_R]


def leaves_other_rows(optimizer: Optimizer) -> bool:
    """Whether a sparse gradient changes the rows that it has and no others."""
    if hasattr(optimizer, "settle") or isinstance(optimizer, SparseAdam):
        return True
    # torch's weight decay is of every row, and refuses sparse gradients
    others = any(group.get("weight_decay") or group.get("momentum") for group in optimizer.param_groups)
    return isinstance(optimizer, SGD | Adagrad) and not others
