"""Say what users give items: masked squared error, with dense re-feeding or without (Kuchaiev and Ginsburg 2017).

Shape suffixes: B users, N ratings, M items of the dense pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.models.autoencoder import rows_of
from overnight.tasks.loss import Loss

Refeeding = Literal["none", "alternating", "joint"]


class RecommendationTask(nn.Module):
    """Σ (r - f(x))² over the ratings of a batch; its mean is what the paper calls MMSE.

    Where ratings are hidden from the input (denoising), ``score`` says whether all are scored or the hidden ones only.

    An ideal f has f(f(x)) = f(x), so dense re-feeding trains on its own output, as if all items were rated:

    - ``alternating``, as in the reference code: a step on x, then k steps, each an optimizer update of its own, on the
      output of the step before. The output is detached, is that of the weights before the update and under that pass's
      dropout mask, is input and target alike; the new pass draws another dropout mask. As in that code, targets that
      are exactly 0 do not count (selu never gives one; the paper's text has no such exception); unlike it, the
      mean is over all B · M cells even then.
    - ``joint``: one update on Σ (r - f(x))² + weight · (ratings of the batch) · mean over the cells of
      (y - f(y))², y = f(x) detached; k > 1 goes on from f(y) and adds up.

    The loss that is logged is that of the ratings: through the steps of a dense pass it stays that of the last batch.

    Args:
        model: see ``overnight.models.autoencoder``.
        refeeding: ``none``, ``alternating`` or ``joint``.
        repetitions: k; of ``alternating`` it is the batches that repeat (``RatingBatches``), so many times at most.
        weight: of the dense loss.
        noise: dropout on the re-fed input (the reference's ``noise_prob``).
        score: ``all`` or ``hidden``.
        dense_items: items that take part in a dense pass, as ``RatingBatches`` draws them; None is all.
        start: () → what a model with biases begins with as b_i, such as ``damped_item_biases`` of
            ``overnight.evaluate.ratings``. It is here and not in the model, which is made again where it is only used.

    Raises:
        UserError: for settings that cannot be, and for batches whose repetitions are others.
    """

    metric = "rmse"

    def __init__(
        self,
        model: nn.Module,
        *,
        refeeding: Refeeding = "none",
        repetitions: int = 1,
        weight: float = 1.0,
        noise: float = 0.0,
        score: Literal["all", "hidden"] = "all",
        dense_items: int | None = None,
        start: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__()
        if refeeding not in ("none", "alternating", "joint") or score not in ("all", "hidden"):
            raise UserError(
                f"refeeding={refeeding!r} with score={score!r} is not known.",
                "Choose refeeding none, alternating or joint, and score all or hidden.",
            )
        if repetitions < 1 or not weight >= 0 or not 0 <= noise < 1:
            raise UserError(
                f"repetitions={repetitions}, weight={weight} and noise={noise} cannot be.",
                "Take at least 1, at least 0, and 0 to below 1.",
            )
        self.model: Any = model
        self.refeeding, self.repetitions, self.weight, self.noise = refeeding, repetitions, weight, noise
        self.score, self.dense_items = score, dense_items
        if start is not None:
            bias: Any = self.model.item_bias
            if bias is not None:
                bias.data.copy_(torch.as_tensor(start()))

    def initial_carry(self, lanes: int) -> dict[str, Tensor]:
        """Of ``alternating`` the output that is fed next, and each user's squared error and ratings."""
        if self.refeeding != "alternating":
            return {}
        weight = self.model.input
        width = self.model.items if self.dense_items is None else self.dense_items
        zeros = weight.detach().new_zeros
        return {"refed": zeros(lanes, width), "error": zeros(lanes, 1), "scored": zeros(lanes, 1)}

    def count(self, batch: Any) -> int:
        """Ratings that are scored, or cells of a dense pass."""
        if batch.repetition:
            return int(batch.users) * self._width(batch)
        if self.score == "hidden" and batch.hidden_N is not None:
            return max(1, int(batch.hidden))
        return int(batch.ratings)

    def forward(self, batch: Any, carry: Mapping[str, Tensor]) -> Loss:
        if (None if batch.dense_M is None else len(batch.dense_M)) != self.dense_items:
            raise UserError("Task and data differ in dense_items.", "Set data.dense_items and task.dense_items alike.")
        if self.refeeding == "alternating":
            if batch.repetition > self.repetitions:
                raise UserError("The data repeats more often than the task.", "Set data.repetitions as the task's.")
            return self._again(batch, carry) if batch.repetition else self._first(batch)
        if batch.repetition:
            raise UserError("The data repeats batches for dense re-feeding.", "Set task.refeeding=alternating.")
        hidden, error_N = self._errors(batch)
        total = error_N.sum()
        if self.refeeding == "none":
            return Loss(total, self.count(batch))
        dense = self._joint(self.model.dense(hidden, batch.dense_M).detach(), batch)
        objective = total + self.weight * self.count(batch) * dense
        return Loss(total.detach(), self.count(batch), {}, objective)

    def _errors(self, batch: Any) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """The model's state, and the squared error of each rating, 0 for those that are not scored."""
        offset_B, item_N, value_N = batch.offset_B, batch.item_N, batch.value_N
        if batch.hidden_N is None:
            hidden = self.model.hidden(offset_B, item_N, value_N)
        else:
            shown_N = ~batch.hidden_N
            ends_N = torch.cat([shown_N.new_zeros(1, dtype=torch.int64), shown_N.cumsum(0)])
            hidden = self.model.hidden(ends_N[offset_B], item_N[shown_N], value_N[shown_N])
        said_N = self.model.at(hidden, offset_B, item_N)
        error_N = (said_N - value_N.to(said_N.dtype)).square()
        if self.score == "hidden" and batch.hidden_N is not None:
            error_N = error_N * batch.hidden_N
        return hidden, error_N

    def _first(self, batch: Any) -> Loss:
        hidden, error_N = self._errors(batch)
        with torch.no_grad():
            refed_BM = self.model.dense(hidden, batch.dense_M)
            row_N = rows_of(batch.offset_B, len(error_N))
            zeros_B = error_N.new_zeros(len(refed_BM))
            scored_N = torch.ones_like(error_N)
            if self.score == "hidden" and batch.hidden_N is not None:
                scored_N = batch.hidden_N.to(error_N.dtype)
            error_B1, scored_B1 = (zeros_B.index_add(0, row_N, x_N)[:, None] for x_N in (error_N.detach(), scored_N))
        carry = {"refed": refed_BM.detach(), "error": error_B1, "scored": scored_B1}
        return Loss(error_N.sum(), self.count(batch), carry)

    def _again(self, batch: Any, carry: Mapping[str, Tensor]) -> Loss:
        refed_BM = carry["refed"]
        said_BM = self._refeed(refed_BM, batch)
        objective = self.weight * ((said_BM - refed_BM).square() * (refed_BM != 0)).sum()
        count = self.count(batch)
        total = carry["error"].sum() / carry["scored"].sum().clamp_min(1) * count
        return Loss(total, count, {**carry, "refed": said_BM.detach()}, objective)

    def _joint(self, refed_BM: Tensor, batch: Any) -> Tensor:
        mean = refed_BM.new_zeros(())
        for _ in range(self.repetitions):
            said_BM = self._refeed(refed_BM, batch)
            mean = mean + ((said_BM - refed_BM).square() * (refed_BM != 0)).mean()
            refed_BM = said_BM.detach()
        return mean

    def _refeed(self, refed_BM: Tensor, batch: Any) -> Tensor:
        shown_BM = nn.functional.dropout(refed_BM, self.noise, self.training) if self.noise else refed_BM
        said: Tensor = self.model.dense(self.model.hidden_dense(shown_BM, batch.dense_M), batch.dense_M)
        return said

    def _width(self, batch: Any) -> int:
        return int(self.model.items) if batch.dense_M is None else len(batch.dense_M)
