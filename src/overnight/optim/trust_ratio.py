"""‖w‖ / ‖u‖ of a layer: norms that are right for any size, the zero-norm rule, bounds, row blocks, sharded tensors."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

ROW = 1024
Bounds = tuple[float, float]
UNBOUNDED: Bounds = (0.0, math.inf)


def sum_of_squares(x: Tensor, blocks: int = 1) -> Tensor:
    """‖·‖² of each of ``blocks`` equal row blocks of a tensor, in float64.

    One ``vector_norm`` over a large float32 tensor is not good enough on a CPU, where it adds up in float32: of equal
    numbers, 2^24 give a norm that is 0.9 % off and 2^28 one that is 12 % off (torch 2.13). So: norms of short rows,
    added up in float64.

    Args:
        x: of any shape, strides and floating-point type; with ``blocks`` > 1 its first dimension is cut.
        blocks: divides the first dimension.

    Returns:
        float64, [blocks].

    >>> sum_of_squares(torch.tensor([[3.0, 4.0], [0.0, 2.0]]), blocks=2)
    tensor([25.,  4.], dtype=torch.float64)
    """
    if x.dtype not in (torch.float32, torch.float64):
        x = x.float()
    flat = x.reshape(blocks, -1) if blocks > 1 else dense(x).unsqueeze(0)
    if flat.device.type != "cpu":  # reductions there are trees
        norms: Tensor = torch.linalg.vector_norm(flat, dim=1)
        return norms.double().square()
    whole = flat.shape[1] // ROW * ROW
    rows: Tensor = torch.linalg.vector_norm(flat[:, :whole].unflatten(1, (-1, ROW)), dim=2)
    rest: Tensor = torch.linalg.vector_norm(flat[:, whole:], dim=1)
    return rows.double().square().sum(1) + rest.double().square()


def dense(x: Tensor) -> Tensor:
    """All elements in one dimension, in the order of memory: a view of any tensor without gaps, else a copy."""
    if not x.is_contiguous():
        x = x.permute(sorted(range(x.dim()), key=x.stride, reverse=True))
    return x.reshape(-1).contiguous()


def trust_ratio(weight_norm: Tensor, update_norm: Tensor, bounds: Bounds = UNBOUNDED) -> Tensor:
    """ρ = ‖w‖ / ‖u‖ clipped to ``bounds``, and 1 where either norm is zero.

    >>> trust_ratio(torch.tensor([6.0, 0.0, 6.0]), torch.tensor([2.0, 2.0, 0.0]))
    tensor([3., 1., 1.])
    """
    ratio = (weight_norm / update_norm).clamp(*bounds)
    # not > 0: the norms of NaN must not pass for zero
    return torch.where((weight_norm == 0) | (update_norm == 0), 1.0, ratio)


@dataclass(frozen=True)
class Sharding:
    """Where the rest of a tensor is.

    Attributes:
        groups: process groups over which the shards of one tensor are spread; none for a whole tensor.
        first_row: of this shard in the whole tensor.
    """

    groups: tuple[Any, ...] = ()
    first_row: int = 0

    def total(self, squares: Tensor) -> Tensor:
        """Sums over the shards, of sums over this one; in place."""
        for group in self.groups:
            dist.all_reduce(squares, group=group)
        return squares


WHOLE = Sharding()


def in_parallel() -> bool:
    """Whether there are other ranks."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def local(x: Tensor) -> Tensor:
    """This rank's part of a DTensor; any other tensor as it is."""
    part: Tensor = x.to_local() if hasattr(x, "to_local") else x
    return part


def local_gradient(parameter: Any) -> Tensor:
    """This rank's part of a gradient, spread as its parameter is: that of a replicated one can be a pending sum."""
    grad = parameter.grad
    if hasattr(parameter, "to_local") and grad.placements != parameter.placements:
        grad = grad.redistribute(parameter.device_mesh, parameter.placements)
    return local(grad)


def sharding(parameter: Tensor, blocks: int = 1) -> Sharding:
    """How a parameter is spread over ranks (FSDP2, tensor parallel), so that norms are those of the whole tensor.

    Raises:
        ValueError: for a parameter that is a pending sum over ranks, or row blocks of one whose rows are interleaved.
    """
    if not hasattr(parameter, "to_local"):
        return WHOLE
    from torch.distributed.tensor import DTensor, Shard
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    assert isinstance(parameter, DTensor)
    mesh, placements = parameter.device_mesh, parameter.placements
    if any(placement.is_partial() for placement in placements):
        raise ValueError("A parameter that is a pending (partial) sum over ranks cannot be updated; redistribute it.")
    if blocks > 1 and any(type(p) is not Shard and not p.is_replicate() for p in placements):
        raise ValueError(f"blocks={blocks} of a parameter placed as {placements} is not supported; use blocks=1.")
    groups = tuple(mesh.get_group(dim) for dim, p in enumerate(placements) if not p.is_replicate())
    if blocks == 1:
        return Sharding(groups)  # the offset takes three times as long as the rest, at every step
    _, offset = compute_local_shape_and_global_offset(parameter.shape, mesh, placements)
    return Sharding(groups, offset[0])


def block_of_rows(x: Tensor, rows: int, blocks: int, where: Sharding) -> Tensor:
    """Which row block each row of this shard belongs to: int64, [rows here]."""
    return (where.first_row + torch.arange(x.shape[0], device=x.device)) // (rows // blocks)


def block_squares(x: Tensor, block_of: Tensor | None, blocks: int) -> Tensor:
    """``sum_of_squares`` by block, for a shard whose rows belong to the blocks ``block_of``."""
    if block_of is None or blocks == 1:
        return sum_of_squares(x)
    squares = torch.zeros(blocks, dtype=torch.float64, device=x.device)
    if x.shape[0]:
        squares.index_add_(0, block_of, sum_of_squares(x, x.shape[0]))
    return squares
