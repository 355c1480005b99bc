"""Gradients of which only some rows are there: reading, measuring and clipping them.

Shape suffixes: R rows of the step.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def rows_of(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of a sparse gradient: ids [R], rising and without repetition, and their values [R, …], not copied if so.

    torch's own ``coalesce`` sorts and copies again what was coalesced before autograd handed it on.

    Raises:
        ValueError: for a gradient that is sparse in more dimensions than the first.

    >>> g = torch.sparse_coo_tensor([[4, 1, 4]], [[1.0], [2.0], [3.0]], (9, 1))
    >>> rows_of(g)
    (tensor([1, 4]), tensor([[2.],
            [4.]]))
    """
    if gradient.sparse_dim() != 1:
        raise ValueError(
            f"A gradient of shape {list(gradient.shape)} is sparse in {gradient.sparse_dim()} dimensions, not one."
        )
    ids, values = gradient._indices()[0], gradient._values()
    if gradient.is_coalesced() or bool((ids[1:] > ids[:-1]).all()):
        return ids, values
    unique, place = torch.unique(ids, return_inverse=True)
    if values.ndim == 1:
        return unique, values.new_zeros(len(unique)).index_add_(0, place, values)
    flat = values.flatten(1)
    # adds in a fixed order on every device
    summed = torch.ops.aten.embedding_dense_backward(flat, place, len(unique), -1, False)
    return unique, summed.unflatten(1, values.shape[1:])


def total_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The L2 norm of all gradients together, row-sparse and dense, on the first one's device.

    ``torch.nn.utils.get_total_norm`` refuses sparse ones (torch 2.13).

    >>> total_norm([torch.tensor([3.0]), torch.sparse_coo_tensor([[1]], [4.0], (9,))])
    tensor(5.)
    """
    dense = [rows_of(gradient)[1] if gradient.is_sparse else gradient for gradient in gradients]
    return torch.nn.utils.get_total_norm(dense)


def clip_grad_norm_(parameters: Iterable[Tensor], max_norm: float) -> Tensor:
    """``torch.nn.utils.clip_grad_norm_`` for row-sparse and dense gradients together.

    Args:
        parameters: those without gradients are left out.
        max_norm: gradients are scaled, in place, to at most this norm.

    Returns:
        The norm before.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = total_norm(gradients)
    factor = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        (gradient._values() if gradient.is_sparse else gradient).mul_(factor.to(gradient.device))
    return norm
