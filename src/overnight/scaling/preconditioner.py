"""Norms of gradients as an Adam-like optimizer sees them: divided by √v̂ + ε of its own state."""

import math

import torch
from torch import Tensor

from overnight.errors import UserError

_CHUNK_CPU, _CHUNK = 2**18, 2**26
"""Elements at a time: on a CPU what stays in its cache, elsewhere few launches."""


class Preconditioner:
    """The diagonal that an Adam-like optimizer divides by, read from its state as it is at the moment.

    √v̂ counts as at least √(1 − β₂) times its root mean square over the tensor. A weight that has hardly had a gradient
    (a pixel that is nearly always black, a rare word) would otherwise be all that a norm sees, by 1/ε; Adam itself
    bounds what such a weight does by 1/√(1 − β₂), with the gradient of the moment in its v.

    Args:
        optimizer: with ``exp_avg_sq`` (or ``max_exp_avg_sq``) in its state, ``betas`` and ``eps`` in its groups.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.optimizer = optimizer
        # groups by number, since load_state_dict puts new ones in their place
        self._group_of = {p: i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
        self._scratch: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    @torch.no_grad()
    def norm(self, parameter: Tensor, gradient: Tensor, rows: Tensor | None = None) -> Tensor | None:
        """‖g / (max(√v̂, floor) + ε)‖ in chunks, without copies of its size; None before the optimizer's first step.

        Args:
            parameter: whose state it is.
            gradient: of it, or of some rows.
            rows: which, or None.

        Raises:
            UserError: if the optimizer keeps no second moment.
        """
        state = self.optimizer.state.get(parameter)
        if not state:
            return None
        squares = state.get("max_exp_avg_sq", state.get("exp_avg_sq"))
        if squares is None:
            raise UserError(
                f"{type(self.optimizer).__name__} keeps no exp_avg_sq: its updates have no preconditioned noise scale.",
                "Leave optimizer out to measure the raw one.",
            )
        group = self.optimizer.param_groups[self._group_of[parameter]]
        beta = group["betas"][1]
        correction = 1.0 - beta ** state["step"] if "step" in state else 1.0
        # the mean over all rows, so that a micro-batch and the whole batch are divided by the same
        floor = (squares.mean(dtype=torch.float32) / correction).sqrt() * math.sqrt(1.0 - beta)
        if rows is not None:
            squares = squares[rows]
        chunk = _CHUNK_CPU if gradient.device.type == "cpu" else _CHUNK
        room = self._room(gradient, min(chunk, gradient.numel()))
        norms = []
        for g, v in zip(gradient.reshape(-1).split(chunk), squares.reshape(-1).split(chunk), strict=True):
            part = room[: len(g)]
            torch.div(v, correction, out=part)
            part.sqrt_().clamp_(min=floor).add_(group["eps"])
            torch.div(g, part, out=part)
            norms.append(torch.linalg.vector_norm(part))
        found: Tensor = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
        return found

    def _room(self, gradient: Tensor, size: int) -> Tensor:
        key = (gradient.device, torch.promote_types(gradient.dtype, torch.float32))
        if key not in self._scratch or len(self._scratch[key]) < size:
            self._scratch[key] = torch.empty(size, device=key[0], dtype=key[1])
        return self._scratch[key]
