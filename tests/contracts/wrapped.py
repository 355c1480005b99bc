"""A wrapper that does not boost, as an optimizer class that the conformance suite can build."""

from typing import Any

from overnight.optim import LAMB, LARS, SEBoost
from overnight.optim.subspace import Fixed


class BoostedLAMB(SEBoost):
    """Every step an outer iteration, with a coefficient of zero."""

    def __init__(
        self, params: Any, lr: float = 0.001, betas: tuple[float, float] = (0.9, 0.999), weight_decay: float = 0.0,
        *, blocks: int = 1, foreach: bool | None = None, fused: bool | None = None, capturable: bool = False,
    ) -> None:  # fmt: skip
        base = LAMB(
            params, lr=lr, betas=betas, weight_decay=weight_decay, blocks=blocks, foreach=foreach, fused=fused,
            capturable=capturable,
        )  # fmt: skip
        super().__init__(base, Fixed(1.0), every=1, history=2)


class BoostedLARS(SEBoost):
    """Likewise."""

    def __init__(
        self, params: Any, lr: float = 0.001, momentum: float = 0.9, weight_decay: float = 0.0,
        trust_coefficient: float = 0.001, *, blocks: int = 1, foreach: bool | None = None, fused: bool | None = None,
        capturable: bool = False,
    ) -> None:  # fmt: skip
        base = LARS(
            params, lr=lr, momentum=momentum, weight_decay=weight_decay, trust_coefficient=trust_coefficient,
            blocks=blocks, foreach=foreach, fused=fused, capturable=capturable,
        )  # fmt: skip
        super().__init__(base, Fixed(1.0), every=1, history=2)
