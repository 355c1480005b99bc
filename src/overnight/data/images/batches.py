"""Shuffled batches of images; the batch of a step is a function of (seed, step, rank), so resuming is one integer.

Samples are counted over the whole run: sample s is image π_e(s mod N) of epoch e = s // N, where π_e is a permutation
drawn from (seed, e). Step t of batch B reads samples t·B to (t + 1)·B. So every batch is whole, every image is seen
once an epoch whatever B is, and the batch at the end of an epoch is filled up from the beginning of the next: none is
dropped and none is smaller. An epoch is N / B steps, which need not be a whole number. Augmentation is a function of
(seed, s) too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from overnight.data.images.ahead import Ahead
from overnight.data.images.augment import ResizedCrop, crop_flip, draws
from overnight.data.images.sources import open_images
from overnight.data.images.stored import Bad, StoredImages
from overnight.errors import UserError

Augment = Callable[[Any, npt.NDArray[np.int64], npt.NDArray[np.float64]], tuple[Tensor, Tensor]]
"""(images, places, four uniform numbers of each) → images and labels."""


class Images(Protocol):
    """What batches are drawn from: in memory, or read from files when they are asked for."""

    @property
    def digest(self) -> str:
        """Changes when an image or a label does."""

    def __len__(self) -> int: ...

    def read(self, indices: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The images (uint8, the first dimension theirs) and labels (int64) at these places."""


@dataclass(frozen=True)
class ImageBatch:
    """Shapes: B images, H × W pixels, C channels.

    Attributes:
        image_BHW: uint8; of colour [B, H, W, C].
        label_B: int64.
    """

    image_BHW: Tensor
    label_B: Tensor

    def to(self, device: torch.device) -> "ImageBatch":
        """The batch on a device; through pinned memory to a GPU, so that the copy waits for nothing."""

        def move(x: Tensor) -> Tensor:
            return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)

        return ImageBatch(move(self.image_BHW), move(self.label_B))


class ImageBatches:
    """The batches of a set of images (the order: top of this module).

    Args:
        images: what they are drawn from.
        batch: B, over all ranks.
        seed: of the permutations and of augmentation.
        augment: of the images; None for them as they are.

    Raises:
        UserError: if the batch is less than 1 or more than there are images.

    Example:
        >>> from overnight.data.images.memory import LabelledImages
        >>> images = LabelledImages(torch.zeros(10, 2, 2, dtype=torch.uint8), torch.arange(10), 10)
        >>> batches = ImageBatches(images, 4)
        >>> batches.steps_per_epoch
        2.5
        >>> sorted(torch.cat([batches.at(step).label_B for step in range(5)]).tolist()) == sorted([*range(10)] * 2)
        True
    """

    def __init__(self, images: Images, batch: int, *, seed: int = 0, augment: Augment | None = None) -> None:
        if batch < 1:
            raise UserError(f"A batch of {batch} images cannot be read.", "Take at least 1.")
        if batch > len(images):
            raise UserError(
                f"There are {len(images):,} images, too few for a batch of {batch:,}.",
                f"The largest batch that fits is {len(images)}.",
            )
        self.images, self.batch, self.seed, self.augment = images, batch, seed, augment
        self.digest = images.digest
        self.steps_per_epoch = len(images) / batch
        self._permutation = lru_cache(maxsize=2)(self._draw)

    def indices(self, step: int, first: int = 0, count: int | None = None) -> npt.NDArray[np.int64]:
        """Places of the images of a step, ``first`` to ``first + count`` of its batch."""
        count = self.batch - first if count is None else count
        size, at = len(self.images), step * self.batch + first
        found = []
        while count > 0:
            epoch, place = divmod(at, size)
            taken = min(count, size - place)
            found.append(self._permutation(epoch)[place : place + taken])
            at, count = at + taken, count - taken
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def at(self, step: int, first: int = 0, count: int | None = None) -> ImageBatch:
        """The images ``first`` to ``first + count`` (a rank's, or a micro-batch's share) of the batch of a step."""
        indices = self.indices(step, first, count)
        if self.augment is None:
            return ImageBatch(*self.images.read(indices))
        uniform = draws(self.seed, step * self.batch + first, len(indices))
        return ImageBatch(*self.augment(self.images, indices, uniform))

    def _draw(self, epoch: int) -> npt.NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.images))


def image_batches(
    *,
    corpus: str,
    lanes: int,
    seed: int,
    valid: int = 0,
    classes: int | None = None,
    size: int | None = None,
    augment: str = "none",
    padding: int = 4,
    flip: bool = True,
    bad_images: Bad = "stop",
    workers: int | None = None,
) -> ImageBatches | Ahead:
    """The training batches of a folder of images, for a run.

    Args:
        corpus: the folder (see ``open_images``).
        lanes: the batch, over all ranks.
        seed: of the order and of augmentation.
        valid, classes, size, bad_images, workers: see ``open_images``.
        augment: ``none``; ``crop``: out of the image with ``padding`` black pixels around; ``resized``: a random share
            of the area, resized (image files only, which stay where they are).
        padding: pixels.
        flip: mirror half of the images of ``crop``; those of ``resized`` always are.

    Raises:
        UserError: if the files cannot be used, the batch is larger than the data, or there is no such augmentation.
    """
    if augment not in ("none", "crop", "resized"):
        raise UserError(f"There is no augmentation {augment!r}.", "Choose none, crop or resized.")
    images = open_images(
        corpus, "train", valid=valid, classes=classes, size=size, bad_images=bad_images, workers=workers,
        in_files=augment == "resized",
    )  # fmt: skip
    change: Augment | None = None
    if augment == "crop":
        change = partial(_cropped, padding=padding, flip=flip)
    elif augment == "resized":
        if not isinstance(images, StoredImages):
            raise UserError(f"{corpus} holds small images, not files to cut from.", "Take data.augment=crop.")
        change = partial(_resized, crop=ResizedCrop(images.size))
    batches = ImageBatches(images, lanes, seed=seed, augment=change)
    return Ahead(batches) if isinstance(images, StoredImages) else batches


def _cropped(
    images: Images, indices: npt.NDArray[np.int64], uniform: npt.NDArray[np.float64], *, padding: int, flip: bool
) -> tuple[Tensor, Tensor]:
    found, labels = images.read(indices)
    return crop_flip(found, uniform, padding=padding, flip=flip), labels


def _resized(
    images: StoredImages, indices: npt.NDArray[np.int64], uniform: npt.NDArray[np.float64], *, crop: ResizedCrop
) -> tuple[Tensor, Tensor]:
    return images.read_with(indices, [partial(crop, uniform=numbers) for numbers in uniform])
