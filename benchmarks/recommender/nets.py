"""Nets of the recommender, trained by the parts of `overnight train recommender` without its folder."""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from overnight.data.ratings.batches import RatingBatches
from overnight.data.ratings.table import RatingMatrix, RatingSplits
from overnight.evaluate.ranking import ModelScores
from overnight.evaluate.ratings import start_of_biases
from overnight.models.autoencoder import RatingAutoencoder
from overnight.optim.groups import param_groups
from overnight.recipes.recommender import PRESETS, Preset
from overnight.tasks.recommendation import RecommendationTask


@dataclass(frozen=True)
class Setting:
    """A preset, and what the command line may say beside it; ``steps`` in place of its epochs."""

    preset: Preset
    by: str = "user"
    steps: int | None = None
    activation: str = "selu"
    task: dict[str, Any] = field(default_factory=dict)


SMALL = PRESETS["small"]
ARMS = {
    "user": Setting(SMALL),
    # chosen on a tenth of the training ratings of ML-100K's u1: 25 epochs there
    "item": Setting(replace(SMALL, hide=0.5, weight_decay=0.3), by="item", steps=1280),
}


def fit(train: RatingMatrix, setting: Setting, seed: int = 0) -> RatingAutoencoder:
    """Train on a matrix whose rows are what ``setting.by`` says; the rate falls by the preset's cosine, or stays."""
    base = setting.preset
    torch.manual_seed(seed)
    net = RatingAutoencoder(
        train.item_count,
        base.hidden,
        dropout=base.dropout,
        activation=setting.activation,
        last_activation=base.last_activation,
        biases=base.biases,
        mean=train.mean if base.biases else 0.0,
        normalized=base.normalized,
        implicit=base.implicit,
        bounds=train.bounds if base.bounded else None,
    )
    task = RecommendationTask(
        net,
        refeeding=base.refeeding,  # type: ignore[arg-type]
        score=base.score,  # type: ignore[arg-type]
        start=lambda: start_of_biases(train),
        **setting.task,
    )
    repetitions = task.repetitions if base.refeeding == "alternating" else 0
    batches = RatingBatches(train, base.batch_size, seed=seed, hide=base.hide, repetitions=repetitions)
    steps = setting.steps or round(base.epochs * batches.steps_per_epoch)
    if base.optimizer == "momentum":
        optimizer: torch.optim.Optimizer = torch.optim.SGD(param_groups(net), lr=base.lr, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(param_groups(net), lr=base.lr, weight_decay=base.weight_decay)
    carry = task.initial_carry(base.batch_size)
    for step in range(steps):
        if base.schedule == "cosine":
            for group in optimizer.param_groups:
                group["lr"] = base.lr * (1 + math.cos(math.pi * step / steps)) / 2
        loss = task(batches.at(step), carry)
        carry = dict(loss.carry)
        optimizer.zero_grad()
        ((loss.total if loss.objective is None else loss.objective) / loss.count).backward()
        optimizer.step()
        if step % 100 == 0 and not math.isfinite(loss.total.item()):
            break
    return net.eval()


def answers(net: RatingAutoencoder, splits: RatingSplits, by: str) -> np.ndarray:
    """What it says of all users and items, float32 [U, n], from the training ratings; not bounded."""
    scores = ModelScores(net, None if by == "user" else splits.train.transposed())
    parts = [np.arange(at, min(at + 512, splits.train.user_count)) for at in range(0, splits.train.user_count, 512)]
    return np.concatenate([scores(splits.train, users).astype(np.float32) for users in parts])
