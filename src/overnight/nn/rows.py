"""Parameters of which a step touches only some rows.

Their gradients are ``torch.sparse_coo`` tensors of one index dimension (the row) and, from one use a step, sorted ids
without repetition. ``torch.optim.SGD`` and ``Adagrad`` take them; ``overnight.optim.rows`` does so without touching
other rows. Used several times in a step (a tied output), the rows of all uses are in one gradient and count as summed.

Shape suffixes: V vocabulary, W width, R rows of the step.
"""

from typing import Any

import torch
from torch import Tensor, nn

from overnight.errors import UserError


def row_gradient(ids_R: Tensor, values_RW: Tensor, shape: torch.Size, *, sparse: bool = True) -> Tensor:
    """The gradient of a parameter whose rows ``ids_R`` have the gradients ``values_RW``, and whose others have none.

    Args:
        ids_R: rows, rising, without repetition.
        values_RW: one entry a row; [R] for a vector.
        shape: of the parameter.
        sparse: a sparse tensor that shares ``values_RW``; otherwise a dense one with zeros in the other rows.

    >>> row_gradient(torch.tensor([0, 2]), torch.ones(2, 3), torch.Size([4, 3])).to_dense().sum(1)
    tensor([3., 0., 3., 0.])
    """
    if sparse:
        # coalesce() would sort and copy rows that are sorted already
        return torch.sparse_coo_tensor(ids_R[None], values_RW, shape, is_coalesced=True, check_invariants=False)
    dense = values_RW.new_zeros(shape)
    return dense.index_copy_(0, ids_R, values_RW)


class _Look(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight_VW: Tensor, ids: Tensor, sparse: bool) -> Tensor:
        ctx.save_for_backward(ids)
        ctx.shape, ctx.dtype, ctx.sparse = weight_VW.shape, weight_VW.dtype, sparse
        return nn.functional.embedding(ids, weight_VW)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (ids,) = ctx.saved_tensors
        ids_R, inverse = torch.unique(ids, return_inverse=True)
        # sums the rows of equal ids in a fixed order, which index_add_ on a GPU does not
        values_RW = torch.ops.aten.embedding_dense_backward(grad.contiguous(), inverse, len(ids_R), -1, False)
        return row_gradient(ids_R, values_RW.to(ctx.dtype), ctx.shape, sparse=ctx.sparse), None, None


class SampledEmbedding(nn.Module):
    """An embedding whose gradient holds the rows of the step's words only.

    Args:
        vocab_size: V.
        width: W.
        weight: a parameter [V, W] to use, such as an output's; None makes one of its own, N(0, 1) as ``nn.Embedding``.
        sparse: False gives dense gradients, for optimizers that need them.

    Shapes: ids of any shape […] → […, W].

    Raises:
        UserError: for sizes below 1, a weight of another shape, and ids outside 0…V-1 on the CPU (a GPU stops the
            program at the next synchronisation, as ``nn.Embedding`` does).

    >>> embedding = SampledEmbedding(1000, 8)
    >>> embedding(torch.tensor([[7, 3], [7, 7]])).sum().backward()
    >>> embedding.weight.grad.coalesce().indices()
    tensor([[3, 7]])
    """

    def __init__(self, vocab_size: int, width: int, *, weight: nn.Parameter | None = None, sparse: bool = True) -> None:
        super().__init__()
        for name, size in (("vocab_size", vocab_size), ("width", width)):
            whole_number(name, size)
        self.vocab_size, self.width, self.sparse = vocab_size, width, sparse
        if weight is not None and tuple(weight.shape) != (vocab_size, width):
            raise UserError(
                f"The tied weight has shape {list(weight.shape)}, the embedding needs [{vocab_size}, {width}].",
                "Tie layers of the same vocabulary and width.",
            )
        self.weight = nn.Parameter(torch.randn(vocab_size, width)) if weight is None else weight

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of these ids."""
        check_ids(ids, self.vocab_size, "word")
        return _Look.apply(self.weight, ids, self.sparse)  # type: ignore[no-any-return, no-untyped-call]

    def extra_repr(self) -> str:
        """For ``print``."""
        return f"{self.vocab_size}, {self.width}"


def check_ids(ids: Tensor, vocab_size: int, kind: str) -> None:
    """Raise a UserError for an id outside the vocabulary; nothing is read from a GPU.

    Args:
        ids: integers.
        vocab_size: V.
        kind: what an id is, for the message, such as ``target``.
    """
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise UserError(f"The {kind} ids are {ids.dtype}.", "Give int64 ids.")
    if ids.device.type != "cpu" or ids.numel() == 0:
        return
    low, high = (int(end) for end in torch.aminmax(ids))
    if low < 0 or high >= vocab_size:
        raise UserError(
            f"The {kind} id {low if low < 0 else high} is not in a vocabulary of {vocab_size:,} words.",
            f"Give ids from 0 to {vocab_size - 1}, such as those of a corpus prepared with this vocabulary.",
        )


def whole_number(name: str, value: object) -> None:
    """Raise a UserError unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name}={value!r} cannot be.", f"{name} must be a whole number of at least 1.")
