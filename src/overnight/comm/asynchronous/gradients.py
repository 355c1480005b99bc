"""What of a worker's gradients is pushed: whole ones, rows, and what becomes of the other rows.

Shape suffixes: R rows pushed, D the rest of a parameter's shape.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from overnight.comm.plan import HiddenRows, Plan, Rows, rule_blocks, units
from overnight.comm.row_sets import RowSet, draw, touched_rows
from overnight.errors import UserError


class Gradients:
    """Packs a model's gradients for the server.

    Args:
        parameters: by name, in the order of the server's.
        plan: which rows of which.

    Attributes:
        kept: name → what was not pushed yet of a gradient with ``residual``.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], plan: Plan) -> None:
        self.parameters, self.plan = parameters, plan
        self.kept: dict[str, Tensor] = {}
        self._kept_next: dict[str, Tensor] = {}
        self._sets: dict[tuple[int, int], RowSet] = {}
        self._window = 0

    def begin(self, window: int) -> None:
        """A pull was made: the rows drawn from now on are those of this number, on every worker the same."""
        if window != self._window:
            self._window = window
            self._sets.clear()

    def row_set(self, name: str) -> RowSet:
        """The frequent and drawn units of a parameter with a rule of rows."""
        rule = self.plan.rule(name)
        assert isinstance(rule, Rows | HiddenRows)
        count = units(name, self.parameters[name], rule)
        key = (count, id(rule))
        if key not in self._sets:
            self._sets[key] = draw(count, rule, self.plan.seed, self._window)
        return self._sets[key]

    def take(self) -> tuple[list[list[Any]], list[Tensor]]:
        """All gradients there are: [place of the parameter, whether rows], and tensors (ids before rows).

        What is kept of them changes with ``settle`` only.
        """
        said: list[list[Any]] = []
        tensors: list[Tensor] = []
        self._kept_next = {}
        for place, (name, parameter) in enumerate(self.parameters.items()):
            if parameter.grad is None:
                continue
            ids_R, values = self._chosen(name, parameter.grad)
            said.append([place, ids_R is not None])
            if ids_R is not None:
                tensors.append(ids_R.to(torch.int32))
            tensors.append(narrow(values, self.plan))
            if name in self._kept_next:
                rest, sent = self._kept_next[name], tensors[-1].to(values.dtype)
                if ids_R is None:
                    rest.sub_(sent)
                else:
                    rest.index_add_(0, ids_R, sent, alpha=-1)
        return said, tensors

    def settle(self, taken: bool) -> None:
        """The server took what ``take`` gave, or did not: then what is kept stays as it was."""
        if taken:
            self.kept |= self._kept_next
        self._kept_next = {}

    def clear(self) -> None:
        """Free the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def _chosen(self, name: str, gradient: Tensor) -> tuple[Tensor | None, Tensor]:
        if gradient.is_sparse:
            if gradient.sparse_dim() != 1:
                raise UserError(
                    f"The gradient of {name} is sparse in {gradient.sparse_dim()} dimensions, not by rows.",
                    "Make the module with sparse=False.",
                )
            gradient = gradient.coalesce()
            return gradient.indices()[0], gradient.values()
        rule = self.plan.rule(name)
        if not isinstance(rule, Rows | HiddenRows):
            return None, gradient
        ids_R, chance_R = self._rows(name, rule, gradient)
        if rule.compensation == "residual":
            whole = gradient + self.kept[name] if name in self.kept else gradient.clone()
            if len(ids_R) < len(gradient) or name in self.kept or self.plan.dtype is not None:
                self._kept_next[name] = whole
            gradient = whole
        values_RD = gradient.index_select(0, ids_R)
        if rule.compensation == "inverse":
            values_RD = values_RD / chance_R.to(values_RD).view(-1, *[1] * (values_RD.ndim - 1))
        return ids_R, values_RD

    def _rows(self, name: str, rule: Rows | HiddenRows, gradient: Tensor) -> tuple[Tensor, Tensor]:
        found, rows = self.row_set(name), len(gradient)
        if isinstance(rule, HiddenRows):
            blocks = torch.arange(rule_blocks(rule))[:, None] * (rows // rule.blocks)
            return (blocks + found.ids_R).flatten(), found.chance_R.repeat(rule.blocks)
        if not rule.touched:
            return found.ids_R, found.chance_R
        chances = torch.zeros(rows, dtype=torch.float64)
        chances[found.ids_R] = found.chance_R
        chances[touched_rows(gradient).cpu()] = 1.0
        ids_R = chances.nonzero()[:, 0]
        return ids_R, chances[ids_R]


def narrow(values: Tensor, plan: Plan) -> Tensor:
    """Values in the type in which they go over the line."""
    values = values.detach()
    return values.to(torch.bfloat16) if plan.dtype == "bf16" and values.is_floating_point() else values
