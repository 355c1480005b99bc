"""Products of states with some rows of a matrix: an output layer that is computed only where it is asked for.

Shape suffixes: B rows of the state, N entries asked for, D width, n rows of the matrix.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_BYTES = 1 << 20
"""Gathered rows that are in memory at once: they stay in the cache of a core."""
CUDA_CHUNK_BYTES = 16 << 20
"""The same on a GPU, where each chunk costs kernel launches."""


def gathered_product(state_BD: Tensor, weight_nD: Tensor, offset_B: Tensor, index_N: Tensor) -> Tensor:
    """y_j = ⟨state_b, weight_i⟩ for the entries j = (b, i) asked for: O(N · D) instead of O(B · n · D).

    The gradients cost as much: that of the state is an embedding bag of the rows asked for, weighted by ∂L/∂y. Nothing
    of size N · D is kept for the backward pass.

    Args:
        state_BD: one row each.
        weight_nD: the matrix.
        offset_B: [B + 1]; row b is asked for the entries ``offset_B[b]`` to before ``offset_B[b + 1]``.
        index_N: their rows of the matrix.

    Returns:
        [N], in the matrix's dtype.

    Example:
        >>> state, weight = torch.eye(2), torch.arange(6.0).view(3, 2)
        >>> gathered_product(state, weight, torch.tensor([0, 1, 3]), torch.tensor([2, 0, 2])).tolist()
        [4.0, 1.0, 5.0]
    """
    # sums over D stay in the matrix's dtype, also where autocast would make products of them
    with torch.autocast(weight_nD.device.type, enabled=False):
        found: Tensor = _Gathered.apply(state_BD.to(weight_nD.dtype), weight_nD, offset_B, index_N)  # type: ignore[no-untyped-call]
    return found


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, state_BD: Tensor, weight_nD: Tensor, offset_B: Tensor, index_N: Tensor) -> Tensor:
        row_N = torch.arange(len(state_BD), device=index_N.device).repeat_interleave(
            offset_B.diff(), output_size=len(index_N)
        )
        ctx.save_for_backward(state_BD, weight_nD, offset_B, index_N, row_N)
        chunk = _chunk(weight_nD)
        parts = [
            torch.linalg.vecdot(weight_nD[index_N[at : at + chunk]], state_BD[row_N[at : at + chunk]])
            for at in range(0, len(index_N), chunk)
        ]
        return torch.cat(parts) if parts else weight_nD.new_zeros(0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (grad_N,) = grads
        state_BD, weight_nD, offset_B, index_N, row_N = ctx.saved_tensors
        grad_state = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_state = F.embedding_bag(
                index_N, weight_nD, offset_B[:-1], mode="sum", per_sample_weights=grad_N.contiguous()
            )
        if ctx.needs_input_grad[1]:
            # the same sums by rows of the matrix: a bag for each holds the states that asked for it
            order = torch.argsort(index_N, stable=True)
            starts_n = torch.searchsorted(index_N[order], torch.arange(len(weight_nD), device=index_N.device))
            grad_weight = F.embedding_bag(
                row_N[order], state_BD, starts_n, mode="sum", per_sample_weights=grad_N[order]
            )
        return grad_state, grad_weight, None, None


def _chunk(weight_nD: Tensor) -> int:
    size = CUDA_CHUNK_BYTES if weight_nD.is_cuda else CHUNK_BYTES
    return max(1, size // (weight_nD.shape[1] * weight_nD.element_size()))
