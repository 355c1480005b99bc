"""The first pass of a step as one kernel, made by ``torch.compile``: only for those who ask for it."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from overnight.optim.trust_ratio import ROW, sum_of_squares


def adam(
    w: Tensor, g: Tensor, m: Tensor, v: Tensor, u: Tensor, rule: Any, step: float | None, maximize: bool
) -> Sequence[float]:
    """Update m and v of one chunk, write LAMB's direction to u, return ‖w‖² and ‖u‖².

    Args:
        w, g, m, v, u: chunks in one dimension.
        rule: numbers of the update.
        step: for the bias correction; None for none.
        maximize: ascend.
    """
    beta1, beta2 = rule.beta1, rule.beta2
    c1 = 1.0 if step is None else 1 / (1 - beta1**step)
    c2 = 1.0 if step is None else (1 - beta2**step) ** -0.5
    sign = -1.0 if maximize else 1.0
    numbers = torch.tensor([1 - beta1, beta2, 1 - beta2, c1, c2, rule.eps, rule.weight_decay, sign], dtype=w.dtype)
    rows = len(w) // ROW
    squares = [0.0, 0.0]
    if rows:
        head = [x[: rows * ROW] for x in (w, g, m, v, u)]
        squares = [float(x.double().sum()) for x in _kernel()(*head, numbers)]
    if rows * ROW < len(w):  # too short for a row
        w, g, m, v, u = (x[rows * ROW :] for x in (w, g, m, v, u))
        _adam(w, g, m, v, u, numbers)
        squares = [squares[0] + float(sum_of_squares(w)), squares[1] + float(sum_of_squares(u))]
    return squares


def _adam(w: Tensor, g: Tensor, m: Tensor, v: Tensor, u: Tensor, numbers: Tensor) -> None:
    new1, beta2, new2, c1, c2, eps, decay, sign = numbers.unbind()
    g = g * sign
    m.copy_(m + (g - m) * new1)
    v.copy_(v * beta2 + g * g * new2)
    u.copy_(m * c1 / (v.sqrt() * c2 + eps) + decay * w)


def _adam_and_squares(w: Tensor, g: Tensor, m: Tensor, v: Tensor, u: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    # float32 sums of short rows, as in sum_of_squares
    _adam(w, g, m, v, u, numbers)
    return (w * w).unflatten(0, (-1, ROW)).sum(1), (u * u).unflatten(0, (-1, ROW)).sum(1)


@cache
def _kernel() -> Callable[..., Any]:
    return torch.compile(_adam_and_squares, dynamic=True)
