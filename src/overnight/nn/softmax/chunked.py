"""Cross-entropy of a softmax over all words, a few tokens at a time, forward and backward.

Shape suffixes as in ``overnight.nn.softmax``, and C tokens of a chunk.
"""

from typing import Any

import torch
from torch import Tensor

from overnight.nn.fast.packed import transposed_product

LOGITS = 2**26
"""At most so many at once where no chunk is given: 256 MiB in float32, two to three times that in all."""
ROWS = 2**14
"""Of W's gradient, added up at once."""


def slices(x: Tensor) -> tuple[Tensor, ...]:
    """x cut into groups of rows that fit a CPU's cache, or into large ones elsewhere: temporaries are of that size."""
    elements = 2**18 if x.device.type == "cpu" else LOGITS
    parts: tuple[Tensor, ...] = x.split(max(1, elements // max(1, x.shape[1])))
    return parts


def log_softmax_(logits_NR: Tensor) -> Tensor:
    """Log-softmax of each row, in place.

    >>> log_softmax_(torch.zeros(2, 4)).exp()
    tensor([[0.2500, 0.2500, 0.2500, 0.2500],
            [0.2500, 0.2500, 0.2500, 0.2500]])
    """
    for part in slices(logits_NR):
        part.copy_(torch.log_softmax(part, 1))
    return logits_NR


def product_dtype(weight: Tensor) -> torch.dtype:
    """Autocast's type of matrix products where it is on, otherwise the weight's own."""
    if torch.is_autocast_enabled(weight.device.type):
        return torch.get_autocast_dtype(weight.device.type)
    return weight.dtype


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Gradients are made in the forward, while a chunk's logits exist; the backward only scales them."""

    @staticmethod
    def forward(
        ctx: Any,
        h_ND: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        chunk: int | None,
        track: bool,
    ) -> Tensor:
        dtype = product_dtype(weight_VD)
        wide = torch.promote_types(dtype, torch.float32)
        needs_h, needs_w, needs_b = (track and needed for needed in ctx.needs_input_grad[:3])
        total = torch.zeros((), dtype=wide, device=h_ND.device)
        dh = torch.empty_like(h_ND) if needs_h else None
        dw = torch.zeros_like(weight_VD) if needs_w else None
        db = torch.zeros_like(bias_V, dtype=wide) if needs_b and bias_V is not None else None
        with torch.autocast(h_ND.device.type, enabled=False):
            weight = weight_VD.to(dtype)
            size = chunk or max(1, LOGITS // len(weight))
            for start in range(0, len(h_ND), size):
                h_CD, targets_C1 = h_ND[start : start + size].to(dtype), targets_N[start : start + size, None]
                d_CV = transposed_product(h_CD.T, weight.T)
                total += _cross_entropy_(d_CV, bias_V, targets_C1, db, needs_h or needs_w or needs_b)
                if dh is not None:
                    dh[start : start + size] = transposed_product(d_CV.T, weight)
                if dw is not None:
                    _add_product(dw, d_CV, h_CD)
        ctx.gradients = dh, dw, None if db is None or bias_V is None else db.to(bias_V.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        return *scaled(ctx, scale), None, None, None


def _cross_entropy_(
    logits_CV: Tensor, bias_V: Tensor | None, targets_C1: Tensor, db_V: Tensor | None, track: bool
) -> Tensor:
    """The loss; if ``track``, logits become its gradient, and b's is added to db, in one pass through memory."""
    wide = torch.promote_types(logits_CV.dtype, torch.float32)
    total = torch.zeros((), dtype=wide, device=logits_CV.device)
    for part, targets in zip(slices(logits_CV), targets_C1.split(len(slices(logits_CV)[0])), strict=True):
        x = part.to(wide)
        if bias_V is not None:
            x += bias_V
        own, top = x.gather(1, targets), x.amax(1, keepdim=True)
        sums = x.sub_(top).exp_().sum(1, keepdim=True)
        total += (top + sums.log() - own).sum()
        if track:
            x /= sums
            x.scatter_add_(1, targets, x.new_full((1, 1), -1.0).expand_as(targets))
            if db_V is not None:
                db_V += x.sum(0)
            part.copy_(x)
    return total


def _add_product(dw_VD: Tensor, d_CV: Tensor, h_CD: Tensor) -> None:
    for start in range(0, len(dw_VD), ROWS):
        dw_VD[start : start + ROWS] += transposed_product(d_CV[:, start : start + ROWS], h_CD)


def scaled(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients that a forward left in ``ctx.gradients``, times that of the loss, in place.

    Raises:
        RuntimeError: the second time, since the first has handed them on.
    """
    if ctx.gradients is None:
        raise RuntimeError(
            "The gradients of this loss were used by an earlier backward(): run the forward again "
            "(retain_graph=True does not keep them)."
        )
    gradients, ctx.gradients = ctx.gradients, None
    return tuple(None if g is None else g.mul_(scale.to(g.dtype)) for g in gradients)


def chunked_cross_entropy(
    h_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, chunk: int | None = None
) -> Tensor:
    """Summed cross-entropy of softmax(W h + b) in nats, without the logits of all tokens at once.

    Products are in autocast's type where it is on, softmax and sums in float32 or wider. With gradients it allocates
    W's gradient in the forward. One ``backward()`` a call.

    Args:
        h_ND: hidden states.
        weight_VD: W.
        bias_V: b, or None.
        targets_N: ids in 0…V-1.
        chunk: tokens at once; None for at most 2²⁶ logits.

    >>> h, w = torch.randn(5, 4), torch.randn(9, 4)
    >>> loss = chunked_cross_entropy(h, w, None, torch.arange(5), chunk=2)
    >>> torch.allclose(loss, torch.nn.functional.cross_entropy(h @ w.T, torch.arange(5), reduction="sum"))
    True
    """
    track = torch.is_grad_enabled()
    return _ChunkedCrossEntropy.apply(h_ND, weight_VD, bias_V, targets_N, chunk, track)  # type: ignore[no-any-return, no-untyped-call]
