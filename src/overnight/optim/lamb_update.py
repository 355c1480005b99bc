"""One bucket of a LAMB step: tensor by tensor, to read, and by torch's multi-tensor functions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from overnight.optim.layerwise import Bucket, Number, as_number, both_squares, gradients, move
from overnight.optim.trust_ratio import trust_ratio


@dataclass(frozen=True)
class Rule:
    """The numbers of one update; a list has one entry a layer.

    Attributes:
        beta1, beta2, eps, weight_decay: as the group has them.
        lr: the rate, and what ``bias_correction="rate"`` makes of it.
        c1, c2: 1 / (1 - β₁ᵗ) and 1 / √(1 - β₂ᵗ), or ones.
        lans: two directions, each with a ratio of its own, from gradients of norm 1.
        gradient_scale: multiplies all gradients.
    """

    beta1: float
    beta2: float
    eps: float
    weight_decay: float
    lr: list[Any]  # of numbers, or of tensors on the device
    c1: list[Any]
    c2: list[Any]
    lans: bool
    gradient_scale: Tensor | None


def rule_of(bucket: Bucket, group: dict[str, Any], gradient_scale: Tensor | None) -> Rule:
    """The numbers of this update."""
    beta1, beta2 = group["betas"]
    capturable, correction = group["capturable"], group["bias_correction"]
    lr = as_number(group["lr"], capturable)
    # in float32, 1 - β₂ would be off by 6e-5
    steps: list[Number] = [layer.step.double() if capturable else layer.step.item() for layer in bucket]
    c1: list[Number] = [1 / (1 - beta1**step) for step in steps]
    c2: list[Number] = [(1 - beta2**step) ** -0.5 for step in steps]
    none: list[Number] = [1.0] * len(bucket)
    rates = [lr * first / second for first, second in zip(c1, c2, strict=True)]
    return Rule(
        beta1,
        beta2,
        group["eps"],
        group["weight_decay"],
        rates if correction == "rate" else [lr] * len(bucket),
        c1 if correction is True else none,
        c2 if correction is True else none,
        group["variant"] == "lans",
        gradient_scale,
    )


def rates(bucket: Bucket, group: dict[str, Any], rule: Rule, directions: Sequence[Tensor]) -> list[Tensor]:
    """lr · ratio of each layer by row block; float64."""
    if not group["adapt"]:
        one = torch.ones(1, dtype=torch.float64, device=bucket[0].weight.device)
        return [lr * one for lr in rule.lr]
    weights = [layer.weight for layer in bucket]
    found = []
    for lr, (w, u) in zip(rule.lr, both_squares(bucket, weights, directions, group["blocks"]), strict=True):
        norm = w.sqrt().clamp(*group["norm_bounds"])
        found.append(lr * trust_ratio(norm, u.sqrt(), group["ratio_bounds"]))
    return found


def loop(bucket: Bucket, group: dict[str, Any], rule: Rule) -> None:
    """The update as the paper writes it."""
    for layer, lr, c1, c2 in zip(bucket, rule.lr, rule.c1, rule.c2, strict=True):
        one = Rule(**{**rule.__dict__, "lr": [lr]})
        w, m, v = layer.weight, layer.state["exp_avg"], layer.state["exp_avg_sq"]
        (g,), _ = gradients([layer], group, rule.gradient_scale, normalise=rule.lans)
        m.lerp_(g, 1 - rule.beta1)
        v.mul_(rule.beta2).addcmul_(g, g, value=1 - rule.beta2)
        d = v.sqrt().mul_(c2).add_(rule.eps)
        if rule.lans:
            parts = [((m / d).mul_(c1), rule.beta1), (g / d, 1 - rule.beta1)]
        else:
            parts = [(torch.div(m, d, out=d).mul_(c1), 1.0)]  # in the place of d: a step takes one copy
        directions = [u.add_(w, alpha=rule.weight_decay) for u, _ in parts]
        scales = [rates([layer], group, one, [u])[0] * part for u, (_, part) in zip(directions, parts, strict=True)]
        move(layer, group, *zip(directions, scales, strict=True))


def foreach(bucket: Bucket, group: dict[str, Any], rule: Rule) -> None:
    """The same with one call for many tensors."""
    ws = [layer.weight for layer in bucket]
    ms = [layer.state["exp_avg"] for layer in bucket]
    vs = [layer.state["exp_avg_sq"] for layer in bucket]
    gs, own = gradients(bucket, group, rule.gradient_scale, normalise=rule.lans)
    torch._foreach_lerp_(ms, gs, 1 - rule.beta1)
    torch._foreach_mul_(vs, rule.beta2)
    torch._foreach_addcmul_(vs, gs, gs, 1 - rule.beta2)
    if own and not rule.lans:  # a copy that is not needed any more
        torch._foreach_copy_(gs, vs)
        ds: Any = gs
        torch._foreach_sqrt_(ds)
    else:
        ds = torch._foreach_sqrt(vs)
    torch._foreach_mul_(ds, rule.c2)
    torch._foreach_add_(ds, rule.eps)
    torch._foreach_reciprocal_(ds)
    parts = [1.0]
    if rule.lans:
        torch._foreach_mul_(gs, ds)
        parts = [rule.beta1, 1 - rule.beta1]
    torch._foreach_mul_(ds, ms)
    torch._foreach_mul_(ds, rule.c1)
    steps: list[list[tuple[Tensor, Tensor]]] = [[] for _ in bucket]
    for part, us in zip(parts, [ds, gs], strict=False):
        torch._foreach_add_(us, ws, alpha=rule.weight_decay)
        for own_steps, u, rate in zip(steps, us, rates(bucket, group, rule, us), strict=True):
            own_steps.append((u, part * rate))
    for layer, own_steps in zip(bucket, steps, strict=True):  # not before both norms are taken
        move(layer, group, *own_steps)
