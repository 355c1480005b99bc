"""What is trained: the paper's four experiments. Each is a model, batches that follow from numbers, and measures."""

import gzip
import io
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.errors import UserError

Rows = tuple[Tensor, Tensor]
SETTLING = 10
"""Training batches by which statistics of normalisation are averaged before a model is measured."""


class Task(Protocol):
    """One problem. ``outputs`` and ``criterion`` make its loss, for rules that look at outputs."""

    def model(self) -> nn.Module:
        """A new one, by torch's generator."""

    def batch(self, seed: int, step: int) -> Any:
        """Training data of a step."""

    def boost_batch(self, seed: int, number: int) -> Any:
        """Training data of a boost, as much as a step's."""

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Mean loss."""

    def measure(self, model: nn.Module, split: str) -> tuple[float, float]:
        """Mean loss of ``held_out`` or ``test``, and percent wrong (0 where there are no classes)."""


@dataclass
class RowTask:
    """Samples that are rows of tensors.

    Attributes:
        train, held_out, test: inputs and targets.
        make: the model.
        criterion: (outputs, targets) → mean loss.
        classes: whether targets are classes.
        size: of a batch.
    """

    train: Rows
    held_out: Rows
    test: Rows
    make: Callable[[], nn.Module]
    of: Callable[[Tensor, Tensor], Tensor]
    classes: bool = False
    size: int = 100

    def model(self) -> nn.Module:
        return self.make()

    def batch(self, seed: int, step: int) -> Rows:
        """Epochs of all rows, another order each; what is left of an order is dropped."""
        steps = len(self.train[0]) // self.size
        order = _order(len(self.train[0]), 1000 * seed + step // steps)
        return self._rows(order[step % steps * self.size :][: self.size])

    def boost_batch(self, seed: int, number: int) -> Rows:
        draw = torch.Generator().manual_seed(1_000_000 * (seed + 1) + number)
        return self._rows(torch.randint(len(self.train[0]), (self.size,), generator=draw))

    def _rows(self, rows: Tensor) -> Rows:
        return self.train[0][rows], self.train[1][rows]

    def outputs(self, model: nn.Module, batch: Rows) -> Tensor:
        """What the model says."""
        found: Tensor = model(batch[0])
        return found

    def criterion(self, outputs: Tensor, batch: Rows) -> Tensor:
        """Loss of it."""
        return self.of(outputs, batch[1])

    def loss(self, model: nn.Module, batch: Rows) -> Tensor:
        return self.criterion(self.outputs(model, batch), batch)

    @torch.no_grad()
    def measure(self, model: nn.Module, split: str) -> tuple[float, float]:
        part: Rows = getattr(self, split)
        self._settle(model)
        model.eval()
        loss, wrong = 0.0, 0
        for x, y in zip(part[0].split(500), part[1].split(500), strict=True):
            out = model(x)
            loss += float(self.of(out, y)) * len(x)
            wrong += int((out.argmax(1) != y).sum()) if self.classes else 0
        model.train()
        return loss / len(part[0]), 100 * wrong / len(part[0])

    def _settle(self, model: nn.Module) -> None:
        """Average the statistics of normalisation anew: after a jump of the weights they are of where it came from."""
        norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
        for module in norms:
            module.reset_running_stats()
            module.momentum = None  # a plain mean
        for number in range(SETTLING if norms else 0):
            model(self.boost_batch(-1, number)[0])
        for module in norms:
            module.momentum = 0.1


@lru_cache(maxsize=2)
def _order(rows: int, seed: int) -> Tensor:
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed))


def layers(*sizes: int, dropout: float = 0.0) -> list[nn.Module]:
    """Linear layers with ReLU between them."""
    found: list[nn.Module] = []
    for a, b in pairwise(sizes):
        found += [nn.Linear(a, b), nn.ReLU()] + [nn.Dropout(dropout)] * bool(dropout)
    return found[: -2 if dropout else -1]


def regression(folder: Path) -> RowTask:
    """20,000 points of a random net of the same kind but wider, with noise; 6-12-8-4-1, ReLU."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(24_000, 6, generator=draw)
    weights = [torch.randn(shape, generator=draw) / shape[0] ** 0.5 for shape in ((6, 64), (64, 64), (64, 1))]
    y = torch.tanh(torch.tanh(2 * x @ weights[0]) @ weights[1] * 2) @ weights[2]
    y = y / y.std() + 0.05 * torch.randn(y.shape, generator=draw)
    parts = [(x[part], y[part]) for part in (slice(20_000), slice(20_000, 22_000), slice(22_000, None))]
    return RowTask(*parts, lambda: nn.Sequential(*layers(6, 12, 8, 4, 1)), F.mse_loss)


def mnist(folder: Path) -> list[Rows]:
    """Training (20,000), held-out (2,000) and test images (2,000) [N, 784] in [0, 1], with labels."""
    found = []
    for part in ("train", "t10k"):
        raw = []
        for name, header_bytes in (("images-idx3", 16), ("labels-idx1", 8)):
            content = gzip.decompress(_file(folder / "mnist" / f"{part}-{name}-ubyte.gz").read_bytes())
            raw.append(torch.frombuffer(bytearray(content), dtype=torch.uint8)[header_bytes:])
        found.append((raw[0].view(-1, 784) / 255, raw[1].long()))
    (x, y), test = found
    return [(x[:20_000], y[:20_000]), (x[-2000:], y[-2000:]), (test[0][:2000], test[1][:2000])]


def autoencoder(folder: Path) -> RowTask:
    """784-200-100-64 and back, ReLU, the last layer sigmoid; mean squared error."""
    sizes = (784, 200, 100, 64, 100, 200, 784)
    parts = [(x, x) for x, _ in mnist(folder)]
    return RowTask(*parts, lambda: nn.Sequential(*layers(*sizes), nn.Sigmoid()), F.mse_loss)


def classifier(folder: Path) -> RowTask:
    """784-200-100-10, ReLU, dropout 0.2."""
    sizes = (784, 200, 100, 10)
    return RowTask(*mnist(folder), lambda: nn.Sequential(*layers(*sizes, dropout=0.2)), F.cross_entropy, classes=True)


def cifar(folder: Path) -> list[Rows]:
    """Every tenth image of CIFAR-10 as JPEG: training 4,000, held-out 1,000, test 1,000, normalised."""
    from PIL import Image

    found = []
    for part in ("train", "test"):
        with tarfile.open(_file(folder / "cifar10_jpeg" / f"{part}.tar.gz")) as file:
            images = [member for member in file if member.name.endswith(".jpg")][::10]
            names = sorted({member.name.split("/")[-2] for member in images})
            labels = torch.tensor([names.index(member.name.split("/")[-2]) for member in images])
            raw = [file.extractfile(member) for member in images]
            pixels = np.stack([np.asarray(Image.open(io.BytesIO(one.read())).convert("RGB")) for one in raw if one])
        found.append((torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255, labels))
    (x, y), (x_test, y_test) = found
    mean, std = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, x_test = ((images - mean) / std for images in (x, x_test))
    return [(x[order[1000:]], y[order[1000:]]), (x[order[:1000]], y[order[:1000]]), (x_test, y_test)]


class Residual(nn.Module):
    """Two 3 × 3 convolutions with batch normalisation, and a 1 × 1 one beside where the size changes."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        stride = 1 if before == after else 2
        self.main = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after),
        )  # fmt: skip
        self.beside = nn.Identity() if stride == 1 else nn.Conv2d(before, after, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.main(x) + self.beside(x))


def resnet(folder: Path) -> RowTask:
    """ResNet-8 of 8 to 32 channels on a tenth of CIFAR-10."""

    def model() -> nn.Module:
        front = [nn.Conv2d(3, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
        blocks = [Residual(8, 8), Residual(8, 16), Residual(16, 32)]
        return nn.Sequential(*front, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))

    return RowTask(*cifar(folder), model, F.cross_entropy, classes=True, size=50)


def _file(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path} is not there.", "Give the folder of data, or set OVERNIGHT_DATA.")
    return path
