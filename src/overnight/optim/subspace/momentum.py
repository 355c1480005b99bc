"""The base optimizer's momentum after a jump."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from overnight.optim.subspace.buffer import Weight
from overnight.optim.trust_ratio import local

NAMES = ("momentum_buffer", "exp_avg")


def momenta_of(weights: Sequence[Weight], state: Any) -> list[Tensor | None]:
    """This rank's parts of them; None where a parameter has none."""
    found = []
    for weight in weights:
        entry = state.get(weight.parameter, {})
        named = [entry[name] for name in NAMES if isinstance(entry.get(name), Tensor)]
        found.append(local(named[0]) if named else None)
    return found


def pull_back(momenta: Sequence[Tensor | None], old: Sequence[Tensor | None], kept: float) -> list[Tensor | None]:
    """momentum ← kept · momentum + (1 - kept) · old, old of the last jump (0 before the first); copies of the new ones.

    Source: Lookahead's code (Zhang et al. 2019) has it for kept = 0.5.
    """
    copies: list[Tensor | None] = []
    for momentum, before in zip(momenta, old, strict=True):
        if momentum is not None:
            momentum.mul_(kept)
            if before is not None:
                momentum.add_(before.view(momentum.shape).to(momentum), alpha=1.0 - kept)  # a file's is on the CPU
        copies.append(None if momentum is None else momentum.reshape(-1).clone())
    return copies
