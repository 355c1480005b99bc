"""Two passes over memory on a CPU, made of torch's fused Adam and SGD kernels. No compiler is needed.

A step must read w, g, m, v and write m, v before it knows ‖u‖, and then read and write w again: 10 streams through
memory where AdamW has 7. The first pass works chunk by chunk, so that its operations find a chunk in the cache, and
leaves u in a scratch of the size of the largest tensor; the second goes backward, so that it finds the end of both.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from overnight.optim import compiled
from overnight.optim.lamb_update import Rule
from overnight.optim.lars_update import ratio_of
from overnight.optim.layerwise import Bucket, Layer
from overnight.optim.trust_ratio import dense, sum_of_squares, trust_ratio

CHUNK = 1 << 20
"""Elements. Measured on BERT-base shapes: 2^16 takes 1.6 times as long, 2^22 a little longer (docs/results.md)."""
FOREVER = torch.tensor(1e9)
"""A step count after which bias correction does nothing."""
Scratch = Callable[[Tensor, int, str], Tensor]


def lamb(bucket: Bucket, group: dict[str, Any], rule: Rule, scratch: Scratch) -> None:
    """Update the layers of a bucket by LAMB."""
    if not group["adapt"] and group["bias_correction"] is True and _as_they_are(bucket, rule.gradient_scale):
        _adamw(bucket, group, rule)
        return
    # the norms of a sharded bucket take one collective; a whole layer is best finished while it is in the cache
    for layers in [range(len(bucket))] if bucket[0].where.groups else [range(n, n + 1) for n in range(len(bucket))]:
        sizes = [bucket[n].weight.numel() for n in layers]
        us = scratch(bucket[0].weight, sum(sizes), "u").split(sizes)
        found = [_direction(bucket[n], u, group, rule, scratch) for n, u in zip(layers, us, strict=True)]
        totals = bucket[0].where.total(torch.tensor(found, dtype=torch.float64))
        ratios = trust_ratio(
            totals[:, 0].sqrt().clamp(*group["norm_bounds"]), totals[:, 1].sqrt(), group["ratio_bounds"]
        ).tolist()
        for n, u, ratio in zip(layers, us, ratios, strict=True):
            rate = float(rule.lr[n]) * (ratio if group["adapt"] else 1.0)
            for w, part in zip(reversed(dense(bucket[n].weight).split(CHUNK)), reversed(u.split(CHUNK)), strict=True):
                w.add_(part, alpha=-rate)


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


def _direction(layer: Layer, u: Tensor, group: dict[str, Any], rule: Rule, scratch: Scratch) -> tuple[float, float]:
    """Update m and v, write the direction to u, return ‖w‖² and ‖u‖² of what is here."""
    corrected = group["bias_correction"] is True
    step = layer.step if corrected else FOREVER
    copied = not _as_they_are([layer], rule.gradient_scale)
    squares = [0.0, 0.0]
    parts = [dense(x).split(CHUNK) for x in (layer.weight, layer.grad, *layer.state.values())]
    for w, given, m, v, part in zip(*parts, u.split(CHUNK), strict=True):
        g = given
        if copied:
            g = scratch(w, len(w), "g").copy_(given)
            if rule.gradient_scale is not None:
                g.mul_(rule.gradient_scale)
        if group["compile"]:
            found = compiled.adam(w, g, m, v, part, rule, step.item() if corrected else None, group["maximize"])
        else:
            # u = λw, then Adam's own update of u at the rate -1 and without decay
            torch.mul(w, rule.weight_decay, out=part)
            torch._fused_adam_(
                [part], [g], [m], [v], [], [step], lr=-1.0, beta1=rule.beta1, beta2=rule.beta2, weight_decay=0.0,
                eps=rule.eps, amsgrad=False, maximize=group["maximize"],
            )  # fmt: skip
            found = _squares(w, part) if group["adapt"] else (0.0, 0.0)
        squares = [total + more for total, more in zip(squares, found, strict=True)]
    return squares[0], squares[1]


def _squares(*tensors: Tensor) -> Sequence[float]:
    return [float(sum_of_squares(x)) for x in tensors]


def can_lars(bucket: Bucket, group: dict[str, Any], lr: float | Tensor) -> bool:
    """Whether torch's SGD kernel can make this update: 1 - dampening scales the newest term, but not Nesterov's."""
    if isinstance(lr, Tensor) or group["momentum"] == 0 or group["denominator"] != "sum":
        return False
    as_published = group["momentum_placement"] == "scaled" or not group["nesterov"]
    return as_published and _as_they_are(bucket, None)


def lars(bucket: Bucket, group: dict[str, Any], lr: float) -> None:
    """Update the layers of a bucket by LARS: a pass for the norms, and torch's fused SGD."""
    ratios = [1.0] * len(bucket)
    if group["adapt"]:
        found = [_squares(layer.weight, layer.grad) for layer in bucket]
        norms = bucket[0].where.total(torch.tensor(found, dtype=torch.float64)).sqrt()
        ratios = ratio_of(norms[:, 0], norms[:, 1], group, lr).tolist()
    for layer, ratio in zip(bucket, ratios, strict=True):
        inside, outside = {"inside": (lr * ratio, 1.0), "torch": (ratio, lr), "scaled": (1.0, lr * ratio)}[
            group["momentum_placement"]
        ]
        torch._fused_sgd_(
            [layer.weight], [layer.grad], [layer.state["momentum_buffer"]], weight_decay=group["weight_decay"],
            momentum=group["momentum"], lr=outside, dampening=1.0 - inside, nesterov=group["nesterov"],
            maximize=group["maximize"], is_first_step=False,
        )  # fmt: skip
