"""A program that runs the Triton cell under Triton's interpreter, on the CPU; prints the largest error by case.

An error is of a tensor against the eager cell's, or the readable recurrence's, over the largest element (at least 1).
"""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"  # read where the kernels are defined

import torch
from torch import Tensor

from overnight.nn.fast import sequence, triton_cell
from overnight.nn.fast.cell import EagerCell
from overnight.nn.fast.triton_cell import TritonCell, cell_for
from overnight.nn.gates import DenseGates, FactorizedGates, GroupedGates, MultiplicativeGates
from overnight.nn.recurrence import Recurrent

SIZES = [(1, 7, 1), (3, 63, 7), (2, 101, 1), (7, 7, 7), (2, 1024 + 63, 1)]
"""B, H and K."""
MAPS: dict[str, Callable[..., Any]] = {
    "dense": DenseGates,
    "factorized": partial(FactorizedGates, rank=5),
    "grouped": partial(GroupedGates, groups=7),
    "multiplicative": MultiplicativeGates,
}


def written(cell: Any, batch: int, hidden: int, groups: int, dtype: torch.dtype, resets: bool) -> dict[str, Tensor]:
    """All that a cell writes, from the same numbers for every cell, over buffers full of NaN."""
    draw = torch.Generator().manual_seed(hidden)

    def normal(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=draw).to(kind)

    def blank(width: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.full((batch, width), torch.nan, dtype=kind)

    z = 3 * normal(batch, 5 * hidden)[:, : 4 * hidden]
    place = blank(5 * hidden)
    dz = place[:, : 4 * hidden]
    if groups > 1:
        z = normal(groups, batch, 4, hidden // groups).permute(1, 2, 0, 3)
        dz = dz.view(batch, groups, 4, hidden // groups).transpose(1, 2)
    c_last, dc = normal(batch, hidden, kind=torch.float32), normal(batch, hidden, kind=torch.float32)
    dy, more = normal(1, hidden).expand(batch, -1), normal(hidden, batch).t()
    keep = (torch.rand(batch, 1, generator=draw) < 0.5).to(dtype) if resets else None
    c, y, gates = blank(hidden, torch.float32), blank(hidden), blank(4 * hidden)
    cell.forward(z, c_last, c, gates, y, keep)
    found = {"c": c, "y": y, "gates": gates.clone()}
    cell.backward(gates, c_last, c, dy, more, dc, dz, keep)
    found |= {"dz": dz, "dc": dc.clone()}
    assert place[:, 4 * hidden :].isnan().all(), "written beside the place of dz"
    cell.backward(gates, c_last, c, dy, None, dc, gates, keep)
    found |= {"dz in the gates' place": gates, "dc again": dc}
    p = normal(batch, 2 * hidden)[:, ::2]
    m, dq, dp = (blank(hidden) for _ in range(3))
    q, dm = normal(batch, hidden), normal(batch, hidden)
    cell.scale(q, p, m)
    cell.scale_backward(dm, p, q, dq, dp)
    return found | {"m": m, "dq": dq, "dp": dp}


def error(ours: Tensor, theirs: Tensor) -> float:
    return (ours.double() - theirs.double()).abs().max().item() / max(1.0, theirs.abs().max().item())


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
            x = torch.randn(5, 3, 7).to(dtype).requires_grad_()
            state = (torch.randn(3, output).to(dtype).requires_grad_(), torch.randn(3, 21).requires_grad_())
            h, last = layer(x, state, torch.rand(5, 3) < 0.3)
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
