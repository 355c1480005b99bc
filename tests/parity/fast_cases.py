"""Calls of a recurrence with every gate map, and their outputs and gradients."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from overnight.nn.gates import FoldedDense, FoldedFactorized, FoldedGrouped, FoldedMultiplicative

MAPS = ("dense", "multiplicative", "factorized", "grouped")
OUTPUTS = ("h", "h_last", "c_last")

every_map = pytest.mark.parametrize("name", MAPS)
with_and_without_projection = pytest.mark.parametrize("projected", [False, True], ids=["", "projected"])


@dataclass(frozen=True)
class Case:
    """Arguments of one call of a recurrence and the weights of its outputs in the loss.

    ``leaves``: p, h0, c0, the map's weights of the loop, and ``projection`` where there is one.
    """

    name: str
    leaves: dict[str, Tensor]
    reset: Tensor | None
    factors: tuple[Tensor, Tensor, Tensor]

    def with_leaves(self, **leaves: Tensor) -> "Case":
        return replace(self, leaves={**self.leaves, **leaves})

    def to(self, change: Callable[[Tensor], Tensor]) -> "Case":
        return self.with_leaves(**{key: change(leaf) for key, leaf in self.leaves.items()})


def resets(kind: str, time: int, batch: int) -> Tensor | None:
    if kind == "none":
        return None
    mask = torch.zeros(time, batch, dtype=torch.bool)
    if kind == "some":
        return torch.rand(time, batch, generator=torch.Generator().manual_seed(time + batch)) < 0.2
    if kind in ("first", "ends"):
        mask[:1] = True
    if kind == "ends":
        mask[-1:] = True
    return mask


def make(
    name: str,
    time: int,
    batch: int,
    hidden: int,
    projected: bool = False,
    dtype: torch.dtype = torch.float64,
    reset: str = "some",
) -> Case:
    generator = torch.Generator().manual_seed(time * 1000 + batch * 100 + hidden)

    def normal(*shape: int, fan_in: int = 1) -> Tensor:
        drawn = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return (drawn * fan_in**-0.5).to(dtype)

    groups = next(k for k in range(2, hidden + 1) if hidden % k == 0)
    rank, gates, output = hidden // 2 + 2, 4 * hidden, hidden
    if projected:
        output = 2 * groups if name == "grouped" else hidden // 2 + 1
    width, weights = {
        "dense": (gates, {"w": (gates, output)}),
        "multiplicative": (gates + hidden, {"w_hm": (hidden, output), "w_mg": (gates, hidden)}),
        "factorized": (rank, {"w_hr": (rank, output), "w_rg": (gates, rank), "bias": (gates,)}),
        "grouped": (gates, {"w": (groups, gates // groups, output // groups)}),
    }[name]
    wide = torch.promote_types(dtype, torch.float32)
    leaves = {
        "p": normal(time, batch, width),
        "h0": normal(batch, output, fan_in=4),
        "c0": normal(batch, hidden, fan_in=4).to(wide),
        **{key: normal(*shape, fan_in=shape[-1]) for key, shape in weights.items()},
    }
    if projected:
        leaves["projection"] = normal(output, hidden, fan_in=hidden)
    factors = normal(time, batch, output), normal(batch, output), normal(batch, hidden).to(wide)
    return Case(name, leaves, resets(reset, time, batch), factors)


def call(run: Any, case: Case) -> tuple[Tensor, Tensor, Tensor]:
    leaves = dict(case.leaves)
    first = [leaves.pop(key) for key in ("p", "h0", "c0")]
    projection = leaves.pop("projection", None)
    unused = torch.zeros(0)  # the weights of x have done their part in p
    weights = list(leaves.values())
    folded = {
        "dense": lambda w: FoldedDense(unused, w, unused),
        "multiplicative": lambda w_hm, w_mg: FoldedMultiplicative(unused, unused, w_hm, w_mg),
        "factorized": lambda w_hr, w_rg, bias: FoldedFactorized(unused, w_hr, w_rg, bias),
        "grouped": lambda w: FoldedGrouped(unused, w, unused),
    }[case.name](*weights)
    result: tuple[Tensor, Tensor, Tensor] = run(folded, *first, case.reset, projection)
    return result


def loss_of(outputs: Sequence[Tensor], case: Case) -> Tensor:
    terms = [(out.double() * factor.double()).sum() for out, factor in zip(outputs, case.factors, strict=True)]
    return torch.stack(terms).sum()


def run_backward(run: Any, case: Case, wanted: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Outputs and gradients by name; only ``wanted`` leaves require one and have one."""
    names = case.leaves if wanted is None else wanted
    leaves = {key: leaf.detach().clone().requires_grad_(key in names) for key, leaf in case.leaves.items()}
    outputs = call(run, replace(case, leaves=leaves))
    loss_of(outputs, case).backward()
    found = {key: out.detach() for key, out in zip(OUTPUTS, outputs, strict=True)}
    for key, leaf in leaves.items():
        assert (leaf.grad is not None) == (key in names), key
        if leaf.grad is not None:
            found[f"d{key}"] = leaf.grad
    return found


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    """tolerance: relative to the largest value of each tensor, or to 1 where that is smaller."""
    assert actual.keys() == expected.keys()
    for name, theirs in expected.items():
        ours = actual[name]
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
        scale = max(1.0, theirs.abs().max().item()) if theirs.numel() else 1.0
        torch.testing.assert_close(
            ours, theirs, rtol=0, atol=tolerance * scale, msg=lambda text, name=name: f"{name}: {text}"
        )
