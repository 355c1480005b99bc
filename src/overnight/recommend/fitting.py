"""Training of an estimator's net: the same parts as in `overnight train recommender`, in a loop without a folder."""

from __future__ import annotations

import math
from typing import Any

import torch

from overnight.data.ratings.batches import RatingBatches
from overnight.data.ratings.table import RatingMatrix
from overnight.errors import UserError
from overnight.evaluate.ratings import start_of_biases
from overnight.metrics import rmse
from overnight.models.autoencoder import RatingAutoencoder
from overnight.optim.groups import param_groups
from overnight.schedule import apply, cosine
from overnight.tasks.recommendation import RecommendationTask


def fit_autoencoder(
    train: RatingMatrix,
    *,
    model: dict[str, Any],
    task: dict[str, Any],
    hide: float,
    batch_size: int,
    lr: float,
    weight_decay: float,
    epochs: float,
    seed: int,
    device: torch.device,
) -> tuple[RatingAutoencoder, list[float]]:
    """AdamW with a cosine of the rate. The caller's random state stays as it is.

    Args:
        train: the ratings.
        model, task: settings of ``RatingAutoencoder`` (but for items and mean) and ``RecommendationTask``.
        hide: see ``RatingBatches``.
        batch_size: rows of one update; all of them, if there are fewer.
        lr, weight_decay: of AdamW; what has fewer than two dimensions does not decay.
        epochs: passes over the rows.
        seed: of weights, order, dropout and what is hidden.
        device: where to train.

    Returns:
        The net, in evaluation mode, and the RMSE of each epoch over the training ratings that were scored.

    Raises:
        UserError: for settings that cannot be, or a loss that is no longer finite.
    """
    for name, value, possible in (
        ("batch_size", batch_size, batch_size >= 1),
        ("epochs", epochs, 0 < epochs < math.inf),
        ("lr", lr, 0 < lr < math.inf),
        ("weight_decay", weight_decay, 0 <= weight_decay < math.inf),
    ):
        if not possible:
            raise UserError(f"{name}={value} cannot be.", "Give a number above 0 (a weight_decay of 0 is none).")
    again = task["repetitions"] if task["refeeding"] == "alternating" else 0
    batch = min(batch_size, int((train.counts > 0).sum()))
    batches = RatingBatches(train, batch, seed=seed, hide=hide, repetitions=again, dense_items=task["dense_items"])
    steps = max(1, round(epochs * batches.steps_per_epoch))
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        net = RatingAutoencoder(train.item_count, mean=train.mean if model["biases"] else 0.0, **model).to(device)
        scored = RecommendationTask(net, **task, start=lambda: start_of_biases(train)).train()
        torch.manual_seed(seed + 1)
        optimizer = torch.optim.AdamW(param_groups(net), lr=lr, weight_decay=weight_decay)
        schedule = apply(optimizer, cosine, global_batch_size=batch, total_samples=steps * batch)
        carry, told = scored.initial_carry(batch), _Told(math.ceil(batches.steps_per_epoch), lr)
        for step in range(steps):
            loss = scored(batches.at(step).to(device), carry)
            carry = dict(loss.carry)
            objective = loss.total if loss.objective is None else loss.objective
            (objective / loss.count).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
            told.add(loss)
    told.close()
    return net.eval(), told.epochs


class _Told:
    """Training RMSE by epoch; the device is asked at the end of each only."""

    def __init__(self, every: int, lr: float) -> None:
        self.every, self.lr = every, lr
        self.epochs: list[float] = []
        self._total: Any = 0.0
        self._count = self._steps = 0

    def add(self, loss: Any) -> None:
        self._total = self._total + loss.total.detach().double()
        self._count += loss.count
        self._steps += 1
        if self._steps == self.every:
            self.close()

    def close(self) -> None:
        if not self._steps:
            return
        found = float(self._total)
        if not math.isfinite(found):
            raise UserError(
                f"The loss is no longer finite in epoch {len(self.epochs) + 1}.",
                f"Take a rate below lr={self.lr}, or divide the ratings by a larger divisor.",
            )
        self.epochs.append(rmse(found, self._count))
        self._total, self._count, self._steps = 0.0, 0, 0
