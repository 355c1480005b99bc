"""Whether an exported model computes what the original does.

Shape suffixes: T time, B lanes, L layers, H hidden, V = 256.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.models.byte_lm import BYTES, ByteLM

Program = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""(ids_TB, h_BLH, c_BLH) → (logits_TBV, h_BLH, c_BLH)."""

TOLERANCE = 1e-3
"""Of the largest number that the original gives, or of 1: two orders above what another order of sums changes."""
SHAPES = ((1, 1), (48, 2), (5, 7))
"""(T, B) of the texts that are read: other sizes than those that a program is traced with."""


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference to the original in logits, h and c; and the largest number of the original."""

    largest: float
    scale: float


@torch.no_grad()
def difference(model: ByteLM, program: Program, shapes: Sequence[tuple[int, int]] = SHAPES) -> Difference:
    """Read random bytes from random states with both.

    Args:
        model: the original, in evaluation mode on the CPU.
        program: what was exported.
        shapes: (T, B) of the texts.
    """
    draws = torch.Generator().manual_seed(0)
    largest, scale = 0.0, 0.0
    for time, lanes in shapes:
        ids_TB = torch.randint(BYTES, (time, lanes), generator=draws)
        h, c = (torch.randn(lanes, len(model.layers), model.hidden_size, generator=draws) for _ in range(2))
        h = h.tanh()
        logits, carry = model(ids_TB, {"h": h, "c": c})
        for ours, theirs in zip((logits, carry["h"], carry["c"]), program(ids_TB, h, c), strict=True):
            apart = float((ours - theirs).abs().max()) if ours.shape == theirs.shape else math.inf
            largest = max(largest, apart) if math.isfinite(apart) else math.inf
            scale = max(scale, float(ours.abs().max()))
    return Difference(largest, scale)


def accept(name: str, found: Difference, tolerance: float = TOLERANCE) -> float:
    """The largest difference, if it is small enough.

    Raises:
        UserError: if it is not; ``name`` says of what.
    """
    if not found.largest <= tolerance * max(1.0, found.scale):
        raise UserError(
            f"{name} differs from the original by up to {found.largest:.3g} (its largest output is {found.scale:.3g});"
            " nothing was written.",
            "Try other versions of torch and of the libraries of the extra 'export', or another --to.",
        )
    return found.largest


def of_model(other: ByteLM) -> Program:
    """A ByteLM as a program."""

    def run(ids_TB: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, carry = other(ids_TB, {"h": h, "c": c})
        return logits, carry["h"], carry["c"]

    return run


def of_step(step: Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]) -> Program:
    """What reads one byte of every lane, called for one after the other."""

    def run(ids_TB: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        outputs = []
        for ids_B in ids_TB:
            logits_BV, h, c = step(ids_B, h, c)
            outputs.append(logits_BV)
        return torch.stack(outputs), h, c

    return run
