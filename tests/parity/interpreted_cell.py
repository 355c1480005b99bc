"""A program that runs the Triton cell under Triton's interpreter, on the CPU; prints the largest error by case.

Errors are against the eager cell and the readable recurrence.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # read where the kernels are defined

import torch
from parity.cell_cases import SIZES, error, written
from torch import Tensor

from overnight.nn.fast import sequence, triton_cell
from overnight.nn.fast.cell import EagerCell
from overnight.nn.fast.triton_cell import TritonCell, cell_for
from overnight.nn.gates import DenseGates, FactorizedGates, GroupedGates, MultiplicativeGates
from overnight.nn.recurrence import Recurrent

MAPS: dict[str, Callable[..., Any]] = {
    "dense": DenseGates,
    "factorized": partial(FactorizedGates, rank=5),
    "grouped": partial(GroupedGates, groups=7),
    "multiplicative": MultiplicativeGates,
}


def of_the_cells(dtype: torch.dtype) -> dict[str, float]:
    """``error`` by case and tensor."""
    found = {}
    for batch, hidden, groups in SIZES:
        for resets in (False, True):
            case = (batch, hidden, groups, dtype, resets)
            c = torch.zeros(batch, hidden)
            ours, theirs = written(TritonCell(c), *case), written(EagerCell(c, dtype), *case)
            for name, tensor in theirs.items():
                assert tensor.dtype == ours[name].dtype
                found[f"B={batch} H={hidden} K={groups} resets={resets} {name}"] = error(ours[name], tensor)
    return found


def of_the_layers(dtype: torch.dtype) -> dict[str, float]:
    """``error`` of outputs and gradients of the fast path with this cell, by map."""
    taken: list[str] = []

    def noting(p: Tensor, c_BH: Tensor) -> Any:
        cell = cell_for(p, c_BH)
        taken.append(type(cell).__name__)
        return cell

    sequence.cell_for = noting
    found = {}
    for name, output in [(name, output) for name in MAPS for output in (21, 7)]:
        results: dict[str, list[Tensor]] = {}
        for path in ("readable", "fast"):
            torch.manual_seed(0)
            layer = Recurrent(MAPS[name](7, 21, output, forget_bias=1.0), path).to(dtype)
            x = torch.randn(4, 2, 7).to(dtype).requires_grad_()
            state = (torch.randn(2, output).to(dtype).requires_grad_(), torch.randn(2, 21).requires_grad_())
            h, last = layer(x, state, torch.rand(4, 2) < 0.3)
            out = [h, *last]
            sum(part.float().square().sum() for part in out).backward()
            results[path] = [*out, *(leaf.grad for leaf in (x, *state, *layer.parameters()))]
        for n, (ours, theirs) in enumerate(zip(results["fast"], results["readable"], strict=True)):
            found[f"{name} N={output} {n}"] = error(ours.detach(), theirs.detach())
    assert taken == ["TritonCell"] * 2 * 2 * len(MAPS), taken
    return found


def with_nothing_in_it() -> None:
    cell = TritonCell(torch.zeros(0, 7))
    written(cell, 0, 7, 1, torch.float32, True)


if __name__ == "__main__":
    triton_cell.DEVICES.add("cpu")
    dtype = getattr(torch, sys.argv[1])
    with_nothing_in_it()
    json.dump({"cell": of_the_cells(dtype), "layer": of_the_layers(dtype)}, sys.stdout)
