"""Few possible inputs, many steps: project each of them once and look the result up.

A byte has 256 values and a window tens of thousands of steps, so the input product of all steps is 256 rows of a table,
gathered; its gradient adds the steps' rows up by value, and the products' gradients have 256 rows too.

Shape suffixes as in ``overnight.nn.gates``; V values, P width of a projected input.
"""

from typing import Any

import torch
from torch import Tensor

BLOCK = 256
"""Rows of the gradient that are added at once. One thread of an AMD CPU, bf16, ms: of 20,000 steps of 1 lane and 320
columns 155 step by step, 2.6 in such blocks, 4.1 at once; of 128 steps of 64 lanes and 5,120 columns 11, 10 and 99."""


def look_up(table_VP: Tensor, ids_TB: Tensor) -> Tensor:
    """table[ids], [T, B, P]; its gradient is added up in float32 or wider, whatever the table's dtype.

    ``torch.nn.functional.embedding`` adds a bf16 gradient up in bf16 on a CPU, which loses most of a frequent value's.

    >>> table = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    >>> look_up(table, torch.zeros(1000, 1, dtype=torch.long)).sum().backward()
    >>> table.grad.tolist()
    [[1000.0], [0.0]]
    """
    apply = _LookUp.apply
    if torch.compiler.is_compiling():
        # a compiler that follows the backward writes every step out
        apply = torch.compiler.disable(apply)
    p_TBP: Tensor = apply(table_VP, ids_TB)  # type: ignore[no-untyped-call]
    return p_TBP


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table_VP: Tensor, ids_TB: Tensor) -> Tensor:
        ctx.save_for_backward(ids_TB)
        ctx.values = len(table_VP)
        return table_VP.index_select(0, ids_TB.reshape(-1)).view(*ids_TB.shape, table_VP.shape[1])

    @staticmethod
    def backward(ctx: Any, dp_TBP: Tensor) -> tuple[Tensor, None]:
        (ids_TB,) = ctx.saved_tensors
        if dp_TBP.device.type != "cpu":
            # accumulates wide and without atomics, so that two runs agree
            found: Tensor = torch.ops.aten.embedding_dense_backward(dp_TBP, ids_TB, ctx.values, -1, False)
            return found, None
        wide = torch.promote_types(dp_TBP.dtype, torch.float32)
        dtable_VP = dp_TBP.new_zeros(ctx.values, dp_TBP.shape[2], dtype=wide)
        # the rows of a block, converted, stay in the cache; whole steps first, so that an expanded gradient is
        # not copied as a whole
        steps = max(1, BLOCK // max(1, ids_TB.shape[1]))
        for ids_CB, dp_CBP in zip(ids_TB.split(steps), dp_TBP.split(steps), strict=True):
            ids_R, dp_RP = ids_CB.reshape(-1), dp_CBP.reshape(-1, dp_CBP.shape[2])
            for ids, dp in zip(ids_R.split(BLOCK), dp_RP.split(BLOCK), strict=True):
                dtable_VP.index_add_(0, ids, dp.to(wide))
        return dtable_VP.to(dp_TBP.dtype), None
