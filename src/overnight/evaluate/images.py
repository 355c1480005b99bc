"""Accuracy of a classifier of images on those that it was not trained on."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.data.images.batches import Images
from overnight.data.images.sources import open_images
from overnight.data.images.stored import Bad

CALL_IMAGES = 1000
CALL_PIXELS = 1000 * 64 * 64
"""Images of one call of the model, and pixels of all of them, at most; the result does not depend on it."""


@dataclass(frozen=True)
class HeldOutImages:
    """Accuracy on held-out images.

    Attributes:
        accuracy: share of images whose class has the largest logit, 0 to 1.
        low, high: its 95 % confidence interval (Wilson 1927).
        loss: mean cross-entropy in nats.
        images: how many were scored.
        seconds: wall time.
    """

    accuracy: float
    low: float
    high: float
    loss: float
    images: int
    seconds: float


@torch.no_grad()
def evaluate_images(
    model: nn.Module,
    images: Images,
    *,
    autocast: torch.dtype | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> HeldOutImages:
    """Accuracy and loss over all images, each scored once.

    Args:
        model: images [B, H, W] or [B, H, W, C] → logits [B, K]; it is in evaluation mode meanwhile.
        images: usually ``open_images(folder, "test")``.
        autocast: dtype of ``torch.autocast``; None computes in the model's own.
        on_progress: called with the images scored, and all there are.

    Example:
        ``evaluate_images(model, open_images("mnist", "test")).accuracy``
    """
    began, device = time.perf_counter(), next(model.parameters()).device
    right, nats = 0, 0.0
    training = model.training
    model.eval()
    try:
        start, call = 0, 1  # the first image says how large they are
        while start < len(images):
            stop = min(start + call, len(images))
            image_BHW, label_B = images.read(np.arange(start, stop))
            call = max(1, min(CALL_IMAGES, CALL_PIXELS // image_BHW.shape[1:3].numel()))
            label_B = label_B.to(device)
            with torch.autocast(device.type, autocast, enabled=autocast is not None):
                logits_BK = model(image_BHW.to(device))
            logits_BK = logits_BK.double()
            right += int((logits_BK.argmax(1) == label_B).sum())
            nats += float(F.cross_entropy(logits_BK, label_B, reduction="sum"))
            if on_progress is not None:
                on_progress(stop, len(images))
            start = stop
    finally:
        model.train(training)
    low, high = wilson_interval(right, len(images))
    loss = nats / len(images)
    return HeldOutImages(right / len(images), low, high, loss, len(images), time.perf_counter() - began)


def wilson_interval(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The ends of the score interval of a share, (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) (Wilson 1927).

    >>> [round(end, 4) for end in wilson_interval(9870, 10_000)]
    [0.9846, 0.989]
    """
    share, weight = right / count, z * z / count
    half = z * math.sqrt(share * (1 - share) / count + weight / (4 * count))
    middle = share + weight / 2
    return max(0.0, (middle - half) / (1 + weight)), min(1.0, (middle + half) / (1 + weight))


def heldout_images(
    *,
    model: nn.Module,
    autocast_dtype: torch.dtype | None,
    final: bool,
    corpus: str,
    split: str = "test",
    valid: int = 0,
    classes: int | None = None,
    size: int | None = None,
    margin: float = 1.0,
    bad_images: Bad = "stop",
) -> dict[str, Any]:
    """Accuracy on a split, as a line of eval.jsonl; the last evaluation of a run is like the others.

    Args:
        model, autocast_dtype, final: the trainer's.
        corpus, split, valid, classes, size, margin, bad_images: what is held out (see ``open_images``).
    """
    images = open_images(corpus, split, valid=valid, classes=classes, size=size, margin=margin, bad_images=bad_images)
    found = evaluate_images(model, images, autocast=autocast_dtype)
    return {
        "split": split,
        "accuracy": found.accuracy,
        "low": found.low,
        "high": found.high,
        "loss": found.loss,
        "images": found.images,
    }


def image_baselines(
    *,
    corpus: str,
    split: str = "test",
    valid: int = 0,
    classes: int | None = None,
    size: int | None = None,
    margin: float = 1.0,
    bad_images: Bad = "stop",
) -> list[dict[str, Any]]:
    """The accuracy of naming always the class that is the most frequent one in training.

    Args:
        corpus, split, valid, classes, size, margin, bad_images: as ``heldout_images`` takes them.
    """

    def labels(part: str) -> Tensor:
        # the pixels are not asked for, so files that are not held anyway stay unread
        return open_images(
            corpus, part, valid=valid, classes=classes, size=size, margin=margin, bad_images=bad_images, in_files=True
        ).labels

    share = float((labels(split) == labels("train").bincount().argmax()).double().mean())
    return [{"name": "the most frequent class", "accuracy": share}]
