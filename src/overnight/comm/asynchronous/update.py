"""Gradients that were pushed, added up, clipped and given to an optimizer.

Shape suffixes: R rows.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from overnight.comm.asynchronous.versions import leaves_other_rows


class Update:
    """The next update of a server.

    Args:
        parameters: by name.
        optimizer: theirs.
        max_norm: see ``ParameterServer``.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimizer: Optimizer, max_norm: float | None) -> None:
        self.parameters, self.optimizer, self.max_norm = parameters, optimizer, max_norm
        self.lazy = leaves_other_rows(optimizer)
        self._clipped = [p for group in optimizer.param_groups if group.get("clip", True) for p in group["params"]]

    def add(self, gradients: list[tuple[str, Tensor | None, Tensor]], weight: float) -> float:
        """Add a push; returns its norm. One that is not finite leaves nothing.

        Args:
            gradients: name, rows (None for all) and values.
            weight: of this push; 1 leaves values as they are.
        """
        norm = float(torch.nn.utils.get_total_norm([_wide(values) for _, _, values in gradients]))
        if not math.isfinite(norm):
            return norm
        for name, ids_R, values in gradients:
            parameter = self.parameters[name]
            values = values.to(parameter.device, parameter.dtype)
            if weight != 1.0:
                values = values * weight
            if ids_R is None:
                parameter.grad = values if parameter.grad is None else parameter.grad.add_(values)
                continue
            ids_R = ids_R.to(parameter.device)
            if self.lazy:
                rows = torch.sparse_coo_tensor(
                    ids_R[None], values, parameter.shape, is_coalesced=True, check_invariants=False
                )
                parameter.grad = rows if parameter.grad is None else (parameter.grad + rows).coalesce()
            else:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                parameter.grad.index_add_(0, ids_R, values)
        return norm

    def make(self, weight: float, factor: float) -> list[tuple[str, Tensor | None]]:
        """Update; returns the parameters that have changed, with the rows that have (None for all).

        Args:
            weight: of all pushes together.
            factor: of the rate.
        """
        memory = [_memory(p.grad) for p in self.parameters.values() if p.grad is not None]
        if weight != 1.0:
            torch._foreach_div_(memory, weight)
        self._clip()
        changed = [(name, _rows(p.grad)) for name, p in self.parameters.items() if p.grad is not None]
        rates = [group["lr"] for group in self.optimizer.param_groups]
        if factor != 1.0:
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
        self.optimizer.step()
        if factor != 1.0:
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        self.drop()
        return changed

    def drop(self) -> None:
        """Forget the gradients that were added."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def _clip(self) -> None:
        if self.max_norm is None:
            return
        memory = [_memory(p.grad) for p in self._clipped if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(memory)
        torch._foreach_mul_(memory, torch.clamp(self.max_norm / (norm + 1e-6), max=1.0))


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def _memory(gradient: Tensor) -> Tensor:
    return gradient._values() if gradient.is_sparse else gradient


def _rows(gradient: Tensor) -> Tensor | None:
    return gradient._indices()[0].cpu() if gradient.is_sparse else None
