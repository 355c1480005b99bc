"""Baselines of the classifiers of images, by name. Which of them were run, and how, stands in docs/results.md."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from overnight.recipes.image_ladders import ALEXNET, RESNET50, Ladder

IMAGENET_IMAGES = 1_281_167
"""Training images of ImageNet-1k, of which an epoch of the published tables has."""


@dataclass(frozen=True)
class Tuned:
    """An optimizer's baseline.

    Attributes:
        optimizer: its import path.
        batch: images of one update.
        lr: peak rate at that batch.
        warmup_epochs: at that batch.
        weight_decay: of convolutions and matrices.
        settings: its other arguments.
        betas: of Adam's family.
        plain_lr: rate of norms and biases; None for the rate of all. Where the layers' own rates are a thousandth of
            the rate, as with LARS, it is far too much for these.
        power: of the polynomial decay.
        max_norm: of clipping; None clips nothing.
    """

    optimizer: str
    batch: int
    lr: float
    warmup_epochs: float
    weight_decay: float
    settings: Mapping[str, Any] = field(default_factory=dict)
    betas: tuple[float, float] | None = None
    plain_lr: float | None = None
    power: float = 2.0
    max_norm: float | None = None


@dataclass(frozen=True)
class ImagePreset:
    """A model, what it is trained on, and how.

    Attributes:
        about: what it is for.
        model: its arguments, without classes and channels.
        size: of the images.
        augment, margin: see ``image_batches`` and ``StoredImages``.
        epochs: budget unless another is given.
        smoothing: of the labels.
        tuned: baselines by the optimizer's name; the first is the preset's own.
        ladders: published ones.
    """

    about: str
    model: Mapping[str, Any]
    size: int
    augment: str
    epochs: float
    smoothing: float
    tuned: Mapping[str, Tuned]
    ladders: Mapping[str, Ladder] = field(default_factory=dict)
    margin: float = 1.0


SGD, LARS, LAMB, ADAMW = "torch.optim.SGD", "overnight.optim.LARS", "overnight.optim.LAMB", "torch.optim.AdamW"
LEGW_LARS = {"momentum": 0.9, "trust_coefficient": 0.001, "eps": 1e-5}
PAPER_LARS = {"momentum": 0.9, "trust_coefficient": 0.001}
PAPER_LAMB = {"eps": 1e-6, "bias_correction": False}

# Rates and warm-ups of the published tables at their smallest batch; momentum is Goyal et al. 2017's.
IMAGENET_TUNED = {
    "lars": Tuned(LARS, 512, 4.0, 10 / 64, 1e-4, LEGW_LARS),
    "lamb": Tuned(LAMB, 512, 0.005, 0.3125, 1.5, PAPER_LAMB, (0.9, 0.999), power=1.0, max_norm=1.0),
    "momentum": Tuned(SGD, 256, 0.1, 5.0, 1e-4, {"momentum": 0.9, "nesterov": True}),
}
ALEXNET_TUNED = {
    "lars": Tuned(LARS, 512, 2.0, 10 / 64, 5e-4, PAPER_LARS),
    "momentum": Tuned(SGD, 512, 0.02, 10 / 64, 5e-4, {"momentum": 0.9}),
}


def _cifar_tuned(warmup_epochs: float) -> dict[str, Tuned]:
    """First guesses that train, not tuned. The warm-up is 0.5 to 1 % of the run, as that of published baselines."""
    nesterov, adam = {"momentum": 0.9, "nesterov": True}, (0.9, 0.999)
    return {
        "momentum": Tuned(SGD, 128, 0.1, warmup_epochs, 5e-4, nesterov, power=1.0),
        "lars": Tuned(LARS, 128, 4.0, warmup_epochs, 5e-4, PAPER_LARS, plain_lr=0.1, power=1.0),
        "lamb": Tuned(LAMB, 128, 0.01, warmup_epochs, 1e-2, {"eps": 1e-6}, adam, plain_lr=0.002, power=1.0),
        "adamw": Tuned(ADAMW, 128, 0.002, warmup_epochs, 0.05, {}, adam, power=1.0),
    }


CIFAR_TUNED, SHORT_TUNED = _cifar_tuned(0.5), _cifar_tuned(0.05)
CIFAR_PIXELS = {"mean": (0.491, 0.482, 0.447), "std": (0.247, 0.243, 0.262)}
CIFAR_ALEXNET = {"widths": (32, 64, 96, 96, 64), "hidden": 256, "stem": (3, 1, 1), "groups": 1, **CIFAR_PIXELS}

RESNETS = {
    "imagenet": ImagePreset(
        "ResNet-50 v1.5, 90 epochs of ImageNet by LEGW and LARS, batch 512 to 32,768",
        {"layers": (3, 4, 6, 3)}, 224, "resized", 90, 0.1, IMAGENET_TUNED, RESNET50, margin=256 / 224,
    ),
    "cifar": ImagePreset(
        "ResNet-20 on 32 × 32 images, 272,474 parameters",
        {"layers": (3, 3, 3), "width": 16, "bottleneck": False, "stem": "cifar", **CIFAR_PIXELS},
        32, "crop", 100, 0.0, CIFAR_TUNED,
    ),
    "cifar-small": ImagePreset(
        "ResNet-8 on 32 × 32 images, 78,042 parameters: minutes on one core",
        {"layers": (1, 1, 1), "width": 16, "bottleneck": False, "stem": "cifar", **CIFAR_PIXELS},
        32, "crop", 5, 0.0, SHORT_TUNED,
    ),
}  # fmt: skip
ALEXNETS = {
    "imagenet": ImagePreset(
        "AlexNet as published, two groups, ImageNet by LARS, batch 512 to 16,384",
        {}, 227, "resized", 100, 0.0, ALEXNET_TUNED, ALEXNET, margin=256 / 227,
    ),
    "imagenet-bn": ImagePreset(
        "AlexNet-BN: batch norm in the place of local response norm",
        {"norm": "batch"}, 227, "resized", 100, 0.0, ALEXNET_TUNED, {}, margin=256 / 227,
    ),
    "cifar-small": ImagePreset(
        "five convolutions and three dense layers on 32 × 32 images, 462,026 parameters",
        {**CIFAR_ALEXNET, "dropout": 0.2}, 32, "crop", 5, 0.0, SHORT_TUNED,
    ),
    "cifar-small-bn": ImagePreset(
        "that with batch norm, 462,378 parameters",
        {**CIFAR_ALEXNET, "dropout": 0.2, "norm": "batch"}, 32, "crop", 5, 0.0, SHORT_TUNED,
    ),
}  # fmt: skip
