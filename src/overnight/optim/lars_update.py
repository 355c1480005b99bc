"""One bucket of a LARS step: tensor by tensor, to read, and by torch's multi-tensor functions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from overnight.optim.layerwise import Bucket, Number, both_squares, gradients, move


def local_rates(bucket: Bucket, group: dict[str, Any], lr: Number, gs: Sequence[Tensor]) -> list[Tensor]:
    """ρ of each layer by row block, or what takes its place: min(ρ, lr) / lr, or 1; float64.

    Args:
        bucket, group: the layers and their settings.
        lr: rate.
        gs: gradients, with the weight decay in them where the denominator wants it.
    """
    if not group["adapt"]:
        return [torch.ones(1, dtype=torch.float64, device=layer.weight.device) for layer in bucket]
    weights = [layer.weight for layer in bucket]
    return [ratio_of(w.sqrt(), g.sqrt(), group, lr) for w, g in both_squares(bucket, weights, gs, group["blocks"])]


def ratio_of(w: Tensor, g: Tensor, group: dict[str, Any], lr: Number) -> Tensor:
    """From ‖w‖ and ‖g‖."""
    decay = group["weight_decay"] if group["denominator"] == "sum" else 0.0
    ratio = group["trust_coefficient"] * w / (g + decay * w + group["eps"])
    if group["clip"]:
        ratio = (ratio / lr).clamp(max=1.0)  # lr = 0 gives infinity, hence 1
    return torch.where((w == 0) | (g == 0), 1.0, ratio)


def loop(bucket: Bucket, group: dict[str, Any], lr: Number) -> None:
    """The update as the paper writes it."""
    placement, momentum = group["momentum_placement"], group["momentum"]
    for layer in bucket:
        w, v = layer.weight, layer.state["momentum_buffer"]
        (g,), _ = gradients([layer], group, None)
        d = g.add(w, alpha=group["weight_decay"])
        (ratio,) = local_rates([layer], group, lr, [d if group["denominator"] == "decayed" else g])
        inside, outside = {
            "inside": (lr * ratio, torch.ones_like(ratio)),
            "torch": (ratio, lr * torch.ones_like(ratio)),
            "scaled": (torch.ones_like(ratio), lr * ratio),
        }[placement]
        d.mul_(layer.cut(inside))
        v.mul_(momentum).add_(d)
        move(layer, group, (d.add_(v, alpha=momentum) if group["nesterov"] else v, outside))


def foreach(bucket: Bucket, group: dict[str, Any], lr: Number) -> None:
    """The same with one call for many tensors."""
    placement, momentum = group["momentum_placement"], group["momentum"]
    ws, vs = [layer.weight for layer in bucket], [layer.state["momentum_buffer"] for layer in bucket]
    gs, own = gradients(bucket, group, None)
    ratios = local_rates(bucket, group, lr, gs) if group["denominator"] == "sum" else []
    if own:
        torch._foreach_add_(gs, ws, alpha=group["weight_decay"])
        ds: Any = gs
    else:
        ds = torch._foreach_add(gs, ws, alpha=group["weight_decay"])
    ratios = ratios or local_rates(bucket, group, lr, ds)
    one = [torch.ones_like(ratio) for ratio in ratios]
    inside = {"inside": [lr * r for r in ratios], "torch": ratios, "scaled": one}[placement]
    outside = {"inside": one, "torch": [lr * r for r in one], "scaled": [lr * r for r in ratios]}[placement]
    for layer, d, rate in zip(bucket, ds, inside, strict=True):
        if placement != "scaled":
            d.mul_(layer.cut(rate))
    torch._foreach_mul_(vs, momentum)
    torch._foreach_add_(vs, ds)
    if group["nesterov"]:
        torch._foreach_add_(ds, vs, alpha=momentum)
    for layer, d, rate in zip(bucket, ds if group["nesterov"] else vs, outside, strict=True):
        move(layer, group, (d, rate))
