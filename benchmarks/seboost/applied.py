"""What is trained: overnight's own byte language model and recommender."""

import gzip
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from overnight.data.ratings.batches import RatingBatches
from overnight.data.ratings.loading import load_ratings
from overnight.data.ratings.settings import RatingSettings
from overnight.data.ratings.table import RatingMatrix
from overnight.evaluate.ratings import evaluate_ratings
from overnight.models.autoencoder import RatingAutoencoder
from overnight.models.byte_lm import ByteLM
from overnight.tasks.language_model import LanguageModelTask
from overnight.tasks.recommendation import RecommendationTask

LANES, BYTES = 16, 32


@dataclass(frozen=True)
class Window:
    """Bytes and those that come after them, [T, B]; the state starts at zero."""

    input_TB: Tensor
    target_TB: Tensor
    reset_TB: None = None


class ByteTask:
    """A multiplicative LSTM of 96 units on a novel; loss in nats a byte."""

    def __init__(self, folder: Path) -> None:
        text = gzip.decompress((folder / "gutenberg" / "moby_dick_2701.txt.gz").read_bytes())
        held = 16_500
        whole = torch.from_numpy(np.frombuffer(text, dtype=np.uint8).astype(np.int64))
        self.parts = {"train": whole[: -2 * held], "held_out": whole[-2 * held : -held], "test": whole[-held:]}

    def model(self) -> nn.Module:
        return LanguageModelTask(ByteLM(96, 32))

    def batch(self, seed: int, step: int) -> Window:
        return self._drawn(1_000_000 * seed + step)

    def boost_batch(self, seed: int, number: int) -> Window:
        return self._drawn(1_000_000 * seed + 500_000 + number)

    def _drawn(self, number: int) -> Window:
        train = self.parts["train"]
        starts = torch.randint(len(train) - BYTES, (LANES,), generator=torch.Generator().manual_seed(number))
        return self._window(train[starts + torch.arange(BYTES + 1)[:, None]])

    @staticmethod
    def _window(rows: Tensor) -> Window:
        return Window(rows[:-1].contiguous(), rows[1:].contiguous())

    def loss(self, model: nn.Module, batch: Window) -> Tensor:
        lanes = batch.input_TB.shape[1]
        found = model(batch, LanguageModelTask.initial_carry(model, lanes))  # type: ignore[arg-type]
        loss: Tensor = found.total / found.count
        return loss

    @torch.no_grad()
    def measure(self, model: nn.Module, split: str) -> tuple[float, float]:
        part = self.parts[split]
        lanes = (len(part) - 1) // (4 * BYTES)
        rows = part[(torch.arange(lanes) * 4 * BYTES) + torch.arange(4 * BYTES + 1)[:, None]]
        return float(self.loss(model, self._window(rows))), 0.0


class RatingTask:
    """A recommender, 128 units around biases, on ML-100K's u1; a tenth of its training ratings is held out.

    The loss is the mean squared error of ratings hidden from the input; what is measured too.
    """

    def __init__(self, folder: Path) -> None:
        data = folder / "movielens_100k"
        self.splits = load_ratings(data / "u1.base", RatingSettings(valid=0.1, test=0.0), test=data / "u1.test")

    def model(self) -> nn.Module:
        net = RatingAutoencoder(
            len(self.splits.items), (128,), dropout=0.5, last_activation=False, biases=True, normalized=True,
            mean=self.splits.train.mean,
        )  # fmt: skip
        return RecommendationTask(net, score="hidden")

    @cached_property
    def _batches(self) -> dict[int, RatingBatches]:
        return {}

    def _of(self, seed: int) -> RatingBatches:
        if seed not in self._batches:
            self._batches[seed] = RatingBatches(self.splits.train, 64, seed=seed, hide=0.3)
        return self._batches[seed]

    def batch(self, seed: int, step: int) -> Any:
        return self._of(2 * seed).at(step)

    def boost_batch(self, seed: int, number: int) -> Any:
        return self._of(2 * seed + 1).at(number)

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        found = model(batch, {})
        loss: Tensor = found.total / found.count
        return loss

    def measure(self, model: nn.Module, split: str) -> tuple[float, float]:
        wanted: RatingMatrix = self.splits.valid if split == "held_out" else self.splits.test
        net: Any = model
        return evaluate_ratings(net.model, self.splits.train, wanted).rmse ** 2, 0.0
