"""LAMB: Adam × trust ratio (You et al. 2020, arXiv 1904.00962), and its named variants."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from overnight.optim import fused_cpu, fused_cuda
from overnight.optim.lamb_update import foreach, loop, rule_of
from overnight.optim.layerwise import (
    Bucket,
    Layer,
    Layerwise,
    check_bounds,
    check_number,
    choose_foreach,
    choose_fused,
    squares,
)
from overnight.optim.trust_ratio import UNBOUNDED, Bounds

VARIANTS: dict[str, dict[str, Any]] = {
    "lamb": {},
    "author": {"bias_correction": False},
    "lambc": {"ratio_bounds": (0.0, 1.0)},
    "nvlamb": {"max_grad_norm": 1.0},
    "lans": {},
    "deepspeed": {"bias_correction": "rate", "ratio_bounds": (0.01, 10.0)},
}
"""What a variant's name sets, unless it is given: see ``LAMB``."""
PUBLISHED: dict[str, Any] = {"bias_correction": True, "ratio_bounds": UNBOUNDED, "max_grad_norm": math.inf}


class LAMB(Layerwise):
    """LAMB, Algorithm 2 of You et al. 2020 (v5). For each layer w with gradient g:

        m ← β₁ m + (1 - β₁) g,   v ← β₂ v + (1 - β₂) g²,   m̂ = m / (1 - β₁ᵗ),   v̂ = v / (1 - β₂ᵗ)
        u = m̂ / (√v̂ + ε) + λ w
        w ← w - lr · φ(‖w‖) / ‖u‖ · u,   φ(z) = min(max(z, lower), upper)

    so that ‖Δw‖ = lr · φ(‖w‖) for every adapted layer, whatever the gradient. Where φ(‖w‖) or ‖u‖ is zero, the ratio
    is 1. Layers of a group with ``adapt=False`` take ratio 1, which is AdamW; adaptation does not depend on the weight
    decay. The gradient is not clipped and never written to.

    Args:
        params: parameters, (name, parameter) pairs or groups; see ``overnight.optim.groups`` for biases and norms.
        lr: rate; a number or a tensor.
        betas: β₁, β₂.
        eps: ε.
        weight_decay: λ, inside u.
        variant: a name for settings that others publish. ``author`` (the first author's code): no bias correction.
            ``lambc``: ratio at most 1. ``nvlamb`` (NVIDIA): gradients divided by max(1, ‖all of them‖ / 1). ``lans``
            (Zheng et al. 2020, arXiv 2006.13484): g / ‖g‖ for each layer, and the two parts β₁(m̂/d + λw) and
            (1 - β₁)(g/d + λw), d = √v̂ + ε, each with a ratio of its own. ``deepspeed``: ratio in [0.01, 10] and bias
            correction of the rate after the ratio, which breaks the identity above; only to reproduce old runs.
        bias_correction: True, False or ``rate``; None for the variant's (True).
        ratio_bounds: of the ratio; None for the variant's (0, ∞).
        norm_bounds: lower and upper of φ.
        max_grad_norm: divide all gradients by max(1, ‖all gradients of all groups‖ / max_grad_norm); ``math.inf`` for
            never, None for the variant's (never). A rank of ZeroRedundancyOptimizer has only its share of them: clip
            with ``torch.nn.utils.clip_grad_norm_`` there.
        adapt: whether the ratio is taken at all.
        blocks: equal row blocks of each tensor that have ratios of their own, such as 4 for the gates of an LSTM.
        maximize: ascend.
        foreach: update many tensors by one call each operation.
        fused: two passes over memory: on a CPU by torch's fused kernels, on CUDA by Triton's. None takes it on a CPU.
            Layers that they cannot update (row blocks, ``lans``, …) are updated as without it.
        capturable: keep the step count on the device, so that a CUDA graph can be captured.
        master_weights: keep float32 copies of bfloat16 and float16 parameters, and update those. They are made at the
            first step; who loads other weights later must load this optimizer's state with them, or build it anew.

    State of a parameter: ``step``, ``exp_avg``, ``exp_avg_sq`` (and ``master``), float32 for low-precision parameters.

    Raises:
        ValueError: for settings that cannot work, complex parameters and, in ``step``, sparse gradients.

    >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    >>> weight.grad = torch.tensor([[100.0, -0.01]])
    >>> before = weight.detach().clone()
    >>> LAMB([weight], lr=0.1, weight_decay=0.0).step()
    >>> round((weight - before).norm().item(), 5)  # lr · ‖w‖
    0.5
    """

    state_names: ClassVar[tuple[str, ...]] = ("exp_avg", "exp_avg_sq")
    variants: ClassVar[dict[Any, dict[str, Any]]] = {name: PUBLISHED | changes for name, changes in VARIANTS.items()}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        *,
        variant: str = "lamb",
        bias_correction: bool | Literal["rate"] | None = None,
        ratio_bounds: Bounds | None = None,
        norm_bounds: Bounds = UNBOUNDED,
        max_grad_norm: float | None = None,
        adapt: bool = True,
        blocks: int = 1,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        master_weights: bool = False,
    ) -> None:
        if variant not in list(VARIANTS):
            raise ValueError(f"There is no variant {variant!r} of LAMB; choose one of {', '.join(VARIANTS)}.")
        given = {"bias_correction": bias_correction, "ratio_bounds": ratio_bounds, "max_grad_norm": max_grad_norm}
        named = self.variants[variant] | {name: value for name, value in given.items() if value is not None}
        defaults = {
            "lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "variant": variant, **named,
            "norm_bounds": norm_bounds, "adapt": adapt, "blocks": blocks, "maximize": maximize, "foreach": foreach,
            "fused": fused, "capturable": capturable, "master_weights": master_weights,
        }  # fmt: skip
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        if not isinstance(group["betas"], (tuple, list)) or len(group["betas"]) != 2:
            raise ValueError(f"betas={group['betas']!r} must be two numbers.")
        for number, beta in enumerate(group["betas"], 1):
            check_number(f"beta {number}", beta, below=1.0)
        check_number("eps", group["eps"])
        check_bounds("ratio_bounds", group["ratio_bounds"])
        check_bounds("norm_bounds", group["norm_bounds"])
        if not isinstance(group["max_grad_norm"], (int, float)) or not group["max_grad_norm"] > 0:
            raise ValueError(f"max_grad_norm={group['max_grad_norm']!r} must be above 0; use math.inf for never.")
        if group["variant"] not in list(VARIANTS):
            raise ValueError(f"There is no variant {group['variant']!r} of LAMB; choose one of {', '.join(VARIANTS)}.")
        if not isinstance(group["bias_correction"], bool) and group["bias_correction"] != "rate":
            raise ValueError(f"bias_correction={group['bias_correction']!r} must be True, False or 'rate'.")

    def _gradient_scales(self, groups: Sequence[tuple[dict[str, Any], list[Layer]]]) -> list[Tensor | None]:
        limits = [group["max_grad_norm"] for group, _ in groups]
        if all(math.isinf(limit) for limit in limits):
            return [None] * len(groups)
        parts = [squares([layer], [layer.grad], 1)[0].sum() for _, layers in groups for layer in layers]
        norm = torch.stack([part.to(parts[0].device) for part in parts]).sum().sqrt() if parts else torch.tensor(0.0)
        return [None if math.isinf(limit) else 1.0 / (norm / limit).clamp(min=1.0) for limit in limits]

    def _unbounded(self, group: dict[str, Any], layer: Layer) -> bool:
        return not layer.where.groups and fused_cuda.fits(group, layer)

    def _update(self, bucket: Bucket, group: dict[str, Any], gradient_scale: Tensor | None) -> None:
        if fused_cuda.can(bucket, group):
            fused_cuda.lamb(bucket, group, gradient_scale, self._scratch)
            return
        rule = rule_of(bucket, group, gradient_scale)
        if choose_fused(bucket, group, not rule.lans):
            fused_cpu.lamb(bucket, group, rule, self._scratch_like)
        elif choose_foreach(bucket, group):
            foreach(bucket, group, rule)
        else:
            loop(bucket, group, rule)
