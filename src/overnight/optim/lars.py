"""LARS: momentum SGD × trust ratio (You et al. 2017, arXiv 1708.03888), and its named variants."""

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch  # noqa: F401 (examples)
from torch import Tensor

from overnight.optim import fused_cpu, fused_cuda
from overnight.optim.lars_update import foreach, loop
from overnight.optim.layerwise import (
    Bucket,
    Layer,
    Layerwise,
    as_number,
    check_flags,
    check_number,
    choose_foreach,
    choose_fused,
)

Placement = Literal["inside", "torch", "scaled"]
VARIANTS: dict[str, dict[str, Any]] = {
    "lars": {},
    "larc": {"clip": True, "momentum_placement": "torch", "eps": 1e-8},
    "optax": {"denominator": "decayed"},
    "vissl": {"denominator": "decayed", "momentum_placement": "torch"},
}
"""What a variant's name sets, unless it is given: see ``LARS``."""
PUBLISHED: dict[str, Any] = {"clip": False, "momentum_placement": "inside", "denominator": "sum", "eps": 0.0}


class LARS(Layerwise):
    """LARS, Algorithm 1 of You et al. 2017. For each layer w with gradient g:

        ρ = η ‖w‖ / (‖g‖ + λ ‖w‖ + ε)
        v ← m v + lr · ρ · (g + λ w),   w ← w - v

    Where ‖w‖ or ‖g‖ is zero, ρ is 1. Layers of a group with ``adapt=False`` take ρ = 1, which is momentum SGD at the
    full rate; adaptation does not depend on the weight decay. The gradient is never written to.

    The rate stands inside the velocity, as in the paper, Caffe and MLPerf's reference; after it is lowered, momentum
    still carries the old one. Most PyTorch codes put it elsewhere, which differs whenever the rate changes.

    Args:
        params: parameters, (name, parameter) pairs or groups; see ``overnight.optim.groups`` for biases and norms.
        lr: rate; a number or a tensor. With η = 0.001 that of large batches is 1 to 30.
        momentum: m.
        weight_decay: λ, coupled: inside what is scaled, and in the denominator.
        trust_coefficient: η.
        variant: a name for settings that others publish. ``larc`` (apex): local rate min(lr, ρ), momentum as in torch,
            ε = 1e-8. ``optax``: denominator ‖g + λw‖. ``vissl``: that, and momentum as in torch.
        momentum_placement: ``inside``: the above. ``torch``: v ← m v + ρ(g + λw), w ← w - lr · v. ``scaled``:
            v ← m v + (g + λw), w ← w - lr · ρ · v. None for the variant's (inside).
        denominator: ``sum``: ‖g‖ + λ‖w‖. ``decayed``: ‖g + λw‖. None for the variant's (sum).
        clip: LARC: min(lr, ρ) in place of lr · ρ. None for the variant's (False).
        eps: ε. None for the variant's (0).
        nesterov: step by m v + the newest term, in place of v.
        adapt: whether the ratio is taken at all.
        blocks: equal row blocks of each tensor that have ratios of their own, such as 4 for the gates of an LSTM.
        maximize, foreach, fused, capturable, master_weights: as in ``LAMB``.

    State of a parameter: ``step``, ``momentum_buffer`` (and ``master``), float32 for low-precision parameters.

    Raises:
        ValueError: for settings that cannot work, complex parameters and, in ``step``, sparse gradients.

    >>> weight = torch.nn.Parameter(torch.tensor([[3.0, 4.0]]))
    >>> weight.grad = torch.tensor([[100.0, -0.01]])
    >>> before = weight.detach().clone()
    >>> LARS([weight], lr=10.0, trust_coefficient=0.001).step()
    >>> round((weight - before).norm().item(), 5)  # lr · η · ‖w‖
    0.05
    """

    state_names: ClassVar[tuple[str, ...]] = ("momentum_buffer",)
    variants: ClassVar[dict[Any, dict[str, Any]]] = {name: PUBLISHED | changes for name, changes in VARIANTS.items()}

    def __init__(
        self,
        params: Any,
        lr: float | Tensor,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        *,
        variant: str = "lars",
        momentum_placement: Placement | None = None,
        denominator: Literal["sum", "decayed"] | None = None,
        clip: bool | None = None,
        eps: float | None = None,
        nesterov: bool = False,
        adapt: bool = True,
        blocks: int = 1,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
        capturable: bool = False,
        master_weights: bool = False,
    ) -> None:
        if variant not in list(VARIANTS):
            raise ValueError(f"There is no variant {variant!r} of LARS; choose one of {', '.join(VARIANTS)}.")
        given = {"momentum_placement": momentum_placement, "denominator": denominator, "clip": clip, "eps": eps}
        named = self.variants[variant] | {name: value for name, value in given.items() if value is not None}
        defaults = {
            "lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust_coefficient": trust_coefficient,
            "variant": variant, **named, "nesterov": nesterov, "adapt": adapt, "blocks": blocks, "maximize": maximize,
            "foreach": foreach, "fused": fused, "capturable": capturable,
            "master_weights": master_weights,
        }  # fmt: skip
        super().__init__(params, defaults)

    def _check_group(self, group: dict[str, Any]) -> None:
        super()._check_group(group)
        check_number("momentum", group["momentum"], below=1.0)
        check_number("trust_coefficient", group["trust_coefficient"])
        check_number("eps", group["eps"])
        check_flags(group, "nesterov", "clip")
        for name, choices in (
            ("momentum_placement", ("inside", "torch", "scaled")),
            ("denominator", ("sum", "decayed")),
            ("variant", tuple(VARIANTS)),
        ):
            if group[name] not in choices:
                raise ValueError(f"{name}={group[name]!r} is not known; choose one of {', '.join(choices)}.")

    def _unbounded(self, group: dict[str, Any], layer: Layer) -> bool:
        return not layer.where.groups and fused_cuda.fits(group, layer)

    def _update(self, bucket: Bucket, group: dict[str, Any], gradient_scale: Tensor | None) -> None:
        if fused_cuda.can(bucket, group):
            fused_cuda.lars(bucket, group, self._scratch)
            return
        lr = as_number(group["lr"], group["capturable"])
        update: Callable[..., None] = loop
        if choose_fused(bucket, group, fused_cpu.can_lars(bucket, group, lr)):
            update = fused_cpu.lars
        elif choose_foreach(bucket, group):
            update = foreach
        update(bucket, group, lr)
