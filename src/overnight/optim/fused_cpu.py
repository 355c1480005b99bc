"""Two passes over memory on a CPU, made of torch's fused Adam and SGD kernels. No compiler is needed.

A step must read w, g, m, v and write m, v before it knows ‖u‖, and then read and write w again: 10 streams through
memory where AdamW has 7. The first pass works chunk by chunk, so that its operations find a chunk in the cache, and
leaves u in a scratch of the size of the largest tensor; the second goes backward, so that it finds the end of both.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from overnight.optim.lamb_update import Rule
from overnight.optim.lars_update import ratio_of
from overnight.optim.layerwise import Bucket, Layer
from overnight.optim.trust_ratio import ROW, dense, sum_of_squares, trust_ratio

CHUNK = 1 << 20
"""Elements that one round of operations works on. Of 2^15 to 2^22 the fastest on BERT-base shapes (docs/results.md)."""
FOREVER = torch.tensor(torch.inf)
"""A step count after which bias correction does nothing."""
DIGITS = {torch.float32: 1e-8, torch.float64: 1e-3}
"""Factors of the newest term of a velocity below which 1 - (1 - factor) keeps too few digits."""
Scratch = Callable[[Tensor, int, str], Tensor]


def lamb(bucket: Bucket, group: dict[str, Any], rule: Rule, scratch: Scratch) -> None:
    """Update the layers of a bucket by LAMB."""
    if not group["adapt"] and group["bias_correction"] is True and _as_they_are(bucket, rule.gradient_scale):
        _adamw(bucket, group, rule)
        return
    rates = dict(zip(map(id, bucket), rule.lr, strict=True))
    # the norms of a sharded bucket take one collective; whole layers are best finished while they are in the cache
    items = _items(bucket)
    for turn in [items] if bucket[0].where.groups else [[item] for item in items]:
        layers = [layer for item in turn for layer in item]
        sizes = [layer.weight.numel() for layer in layers]
        us = iter(scratch(layers[0].weight, sum(sizes), "u").split(sizes))
        pairs = [[(layer, next(us)) for layer in item] for item in turn]
        found = [squares for item in pairs for squares in _directions(item, group, rule, scratch)]
        ratios = [1.0] * len(layers)
        if group["adapt"]:
            totals = bucket[0].where.total(torch.tensor(found, dtype=torch.float64))
            norms = totals[:, 0].sqrt().clamp(*group["norm_bounds"])
            ratios = trust_ratio(norms, totals[:, 1].sqrt(), group["ratio_bounds"]).tolist()
        for (layer, u), ratio in zip([pair for item in pairs for pair in item], ratios, strict=True):
            rate = float(rates[id(layer)]) * ratio
            for w, part in zip(*(reversed(_chunks(x, CHUNK)) for x in (dense(layer.weight), u)), strict=True):
                w.add_(part, alpha=-rate)


def _items(bucket: Bucket) -> list[Bucket]:
    """Layers that one round can take together; a layer of more than a chunk is alone."""
    items: list[Bucket] = []
    size = CHUNK + 1
    for layer in bucket:
        size += layer.weight.numel()
        if size > CHUNK:
            items.append([])
            size = layer.weight.numel()
        items[-1].append(layer)
    return items


def _as_they_are(bucket: Bucket, gradient_scale: Tensor | None) -> bool:
    return gradient_scale is None and all(layer.grad.dtype == layer.weight.dtype for layer in bucket)


def _adamw(bucket: Bucket, group: dict[str, Any], rule: Rule) -> None:
    """Without a ratio LAMB is AdamW."""
    torch._fused_adamw_(
        [layer.weight for layer in bucket],
        [layer.grad for layer in bucket],
        [layer.state["exp_avg"] for layer in bucket],
        [layer.state["exp_avg_sq"] for layer in bucket],
        [],
        [layer.step for layer in bucket],
        lr=float(rule.lr[0]),
        beta1=rule.beta1,
        beta2=rule.beta2,
        weight_decay=rule.weight_decay,
        eps=rule.eps,
        amsgrad=False,
        maximize=group["maximize"],
    )


def _directions(
    item: Sequence[tuple[Layer, Tensor]], group: dict[str, Any], rule: Rule, scratch: Scratch
) -> list[tuple[float, float]]:
    """Update m and v, write the directions to the u's, return ‖w‖² and ‖u‖² of what is here."""
    totals = [(0.0, 0.0)] * len(item)
    flat = [
        [_chunks(dense(x), CHUNK) for x in (layer.weight, layer.grad, *layer.state.values(), u)] for layer, u in item
    ]
    steps = [layer.step if group["bias_correction"] is True else FOREVER for layer, _ in item]
    for number in range(len(flat[0][0])):  # more than one round only where there is only one layer
        ws, gs, ms, vs, us = ([parts[kind][number] for parts in flat] for kind in range(5))
        if not _as_they_are([layer for layer, _ in item], rule.gradient_scale):
            gs = _copies(gs, ws, rule.gradient_scale, scratch)
        # u = λw, then Adam's own update of u at the rate -1 and without decay
        for w, u in zip(ws, us, strict=True):
            torch.mul(w, rule.weight_decay, out=u)
        torch._fused_adam_(
            us, gs, ms, vs, [], steps, lr=-1.0, beta1=rule.beta1, beta2=rule.beta2, weight_decay=0.0,
            eps=rule.eps, amsgrad=False, maximize=group["maximize"],
        )  # fmt: skip
        found = list(zip(_squares(ws), _squares(us), strict=True)) if group["adapt"] else totals
        totals = [(w + more_w, u + more_u) for (w, u), (more_w, more_u) in zip(totals, found, strict=True)]
    return totals


def _chunks(x: Tensor, size: int) -> Sequence[Tensor]:
    return x.split(size) if x.numel() > size else (x,)


def _copies(gs: Sequence[Tensor], ws: Sequence[Tensor], scale: Tensor | None, scratch: Scratch) -> list[Tensor]:
    """Gradients in the dtype of the weights, scaled."""
    copies = scratch(ws[0], sum(map(len, ws)), "g").split([len(w) for w in ws])
    for copy, g in zip(copies, gs, strict=True):
        copy.copy_(g)
        if scale is not None:
            copy.mul_(scale)
    return list(copies)


def _squares(tensors: Sequence[Tensor]) -> list[float]:
    """‖·‖² of each."""
    small = [n for n, x in enumerate(tensors) if x.numel() <= ROW]  # of equal numbers, 2^14 have a norm 1.5e-5 off
    found = [0.0 if x.numel() <= ROW else _sum_of_squares(x) for x in tensors]
    if small:
        norms = torch.stack(torch._foreach_norm([tensors[n] for n in small])).double()
        for n, square in zip(small, norms.square_().tolist(), strict=True):
            found[n] = square
    return found


def _sum_of_squares(x: Tensor) -> float:
    """``sum_of_squares`` in fewer calls, for a tensor of whole rows."""
    rows, rest = divmod(x.numel(), ROW)
    if rest or not x.is_contiguous():
        return float(sum_of_squares(x))
    norms: Tensor = torch.linalg.vector_norm(x.view(rows, ROW), dim=1).double()
    return float(torch.dot(norms, norms))


def can_lars(bucket: Bucket, group: dict[str, Any], lr: float | Tensor) -> bool:
    """Whether torch's SGD kernel can make this update: 1 - dampening scales the newest term, but not Nesterov's."""
    if isinstance(lr, Tensor) or group["momentum"] == 0 or group["denominator"] != "sum":
        return False
    as_published = group["momentum_placement"] == "scaled" or not group["nesterov"]
    return as_published and _as_they_are(bucket, None)


def lars(bucket: Bucket, group: dict[str, Any], lr: float) -> None:
    """Update the layers of a bucket by LARS: a pass for the norms, and torch's fused SGD."""
    if not group["adapt"]:
        _sgd(bucket, group, lr, 1.0)
        return
    # as in lamb(): one collective, or while the layers are in the cache
    for layers in [bucket] if bucket[0].where.groups else _items(bucket):
        ws, gs = (
            _chunked_squares([dense(x) for x in xs]) for xs in zip(*((y.weight, y.grad) for y in layers), strict=True)
        )
        norms = bucket[0].where.total(torch.tensor(list(zip(ws, gs, strict=True)), dtype=torch.float64)).sqrt()
        for layer, ratio in zip(layers, ratio_of(norms[:, 0], norms[:, 1], group, lr).tolist(), strict=True):
            _sgd([layer], group, lr, ratio)


def _chunked_squares(tensors: Sequence[Tensor]) -> list[float]:
    parts = [_chunks(x, CHUNK) for x in tensors]
    found = iter(_squares([part for chunks in parts for part in chunks]))
    return [sum(next(found) for _ in chunks) for chunks in parts]


def _sgd(layers: Bucket, group: dict[str, Any], lr: float, ratio: float) -> None:
    inside, outside = {"inside": (lr * ratio, 1.0), "torch": (ratio, lr), "scaled": (1.0, lr * ratio)}[
        group["momentum_placement"]
    ]
    if 0 < inside < DIGITS[layers[0].weight.dtype]:  # never with Nesterov's
        for layer in layers:
            v = layer.state["momentum_buffer"].mul_(group["momentum"])
            v.add_(layer.grad, alpha=-inside if group["maximize"] else inside)
            v.add_(layer.weight, alpha=inside * group["weight_decay"])
            layer.weight.add_(v, alpha=-outside)
        return
    torch._fused_sgd_(
        [layer.weight for layer in layers],
        [layer.grad for layer in layers],
        [layer.state["momentum_buffer"] for layer in layers],
        weight_decay=group["weight_decay"],
        momentum=group["momentum"],
        lr=outside,
        dampening=1.0 - inside,
        nesterov=group["nesterov"],
        maximize=group["maximize"],
        is_first_step=False,
    )
