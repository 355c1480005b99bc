"""All that a pointwise cell writes: to hold the Triton cell beside the eager one, interpreted or on a device."""

from typing import Any

import torch
from torch import Tensor

SIZES = [(1, 7, 1), (3, 63, 7), (2, 101, 1), (7, 7, 7), (2, 1024 + 63, 1)]
"""B, H and K."""


def written(
    cell: Any, batch: int, hidden: int, groups: int, dtype: torch.dtype, resets: bool, device: str = "cpu"
) -> dict[str, Tensor]:
    """All that a cell writes, from the same numbers for every cell, over buffers full of NaN."""
    draw = torch.Generator().manual_seed(hidden)

    def normal(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=draw).to(device, kind)

    def blank(width: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.full((batch, width), torch.nan, dtype=kind, device=device)

    z = 3 * normal(batch, 5 * hidden)[:, : 4 * hidden]
    place = blank(5 * hidden)
    dz = place[:, : 4 * hidden]
    if groups > 1:
        z = normal(groups, batch, 4, hidden // groups).permute(1, 2, 0, 3)
        dz = dz.view(batch, groups, 4, hidden // groups).transpose(1, 2)
    c_last, dc = normal(batch, hidden, kind=torch.float32), normal(batch, hidden, kind=torch.float32)
    dy, more = normal(1, hidden).expand(batch, -1), normal(hidden, batch).t()
    reset = (torch.rand(batch, 1, generator=draw) < 0.5).to(device) if resets else None
    if reset is not None:
        c_last.masked_fill_(reset, torch.nan)  # of the last document: it must not show
    c, y, gates = blank(hidden, torch.float32), blank(hidden), blank(4 * hidden)
    cell.forward(z, c_last, c, gates, y, reset)
    found = {"c": c, "y": y, "gates": gates.clone()}
    cell.backward(gates, c_last, c, dy, more, dc, dz, reset)
    found |= {"dz": dz, "dc": dc.clone()}
    assert place[:, 4 * hidden :].isnan().all(), "written beside the place of dz"
    cell.backward(gates, c_last, c, dy, None, dc, gates, reset)
    found |= {"dz in the gates' place": gates, "dc again": dc}
    p = normal(batch, 2 * hidden)[:, ::2]
    m, dq, dp = (blank(hidden) for _ in range(3))
    q, dm = normal(batch, hidden), normal(batch, hidden)
    cell.scale(q, p, m)
    cell.scale_backward(dm, p, q, dq, dp)
    return found | {"m": m, "dq": dq, "dp": dp}


def error(ours: Tensor, theirs: Tensor) -> float:
    """Of the worst element, over the largest one (at least 1)."""
    return (ours.double() - theirs.double()).abs().max().item() / max(1.0, theirs.abs().max().item())
