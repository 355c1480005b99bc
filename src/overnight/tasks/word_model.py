"""Predict the next word of every lane: the output layer's own loss, full or sampled, with the state carried."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.gates import FactorizedGates
from overnight.tasks.loss import Loss

REDUCTIONS = ("mean", "sum_over_time")


class WordModelTask(nn.Module):
    """The summed loss of the model's output layer over all positions, which sampled layers make smaller than it is.

    Args:
        model: ``loss(ids_TB, target_TB, carry, reset_TB) → (summed nats, carry)`` with ``initial_carry(lanes)``
            (``overnight.models.word_model.WordModel``).
        reduction: what is differentiated: the ``mean`` over all positions, or their ``sum_over_time``, averaged over
            lanes, T times as much, as Zaremba et al. and f-lm have it: then rates and norms of clipping mean the same.
        frobenius_decay: λ; λ/2 ‖W₂W₁‖²_F of every factorized gate map is added to what is differentiated.

    Raises:
        UserError: for an unknown reduction, a negative decay, or a decay without factors.
    """

    metric = "perplexity"

    def __init__(self, model: nn.Module, *, reduction: str = "mean", frobenius_decay: float = 0.0) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise UserError(f"reduction={reduction!r} is not known.", f"Choose one of {', '.join(REDUCTIONS)}.")
        if not frobenius_decay >= 0:
            raise UserError(f"frobenius_decay={frobenius_decay} cannot be.", "Take 0 for none, or more.")
        self.model: Any = model
        self.reduction, self.frobenius_decay = reduction, frobenius_decay
        if frobenius_decay and not self._factors():
            raise UserError("frobenius_decay is for factorized gates, and there are none.", "Take gates=factorized:R.")

    def initial_carry(self, lanes: int) -> dict[str, Tensor]:
        carry: dict[str, Tensor] = self.model.initial_carry(lanes)
        return carry

    def count(self, batch: Any) -> int:
        targets: int = batch.target_TB.numel()
        return targets

    def forward(self, batch: Any, carry: Mapping[str, Tensor]) -> Loss:
        total, carry = self.model.loss(batch.input_TB, batch.target_TB, carry, batch.reset_TB)
        count, objective = self.count(batch), total
        if self.reduction == "sum_over_time":
            objective = total * len(batch.target_TB)
        for gates in self._factors() if self.frobenius_decay else ():
            objective = objective + 0.5 * self.frobenius_decay * count * gates.frobenius_squared()
        return Loss(total, count, {name: part.detach() for name, part in carry.items()}, objective)

    def _factors(self) -> list[FactorizedGates]:
        return [part for part in self.model.modules() if isinstance(part, FactorizedGates)]
