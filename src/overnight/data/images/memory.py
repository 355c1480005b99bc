"""Labelled images held in memory, and the folders that they are read from."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from overnight.data.images.idx import read_idx
from overnight.errors import UserError

PARTS = {"train": "train", "test": "t10k"}
"""Splits, and how the names of MNIST's files begin."""


@dataclass(frozen=True)
class LabelledImages:
    """Images and the classes that they show. Shapes: N images, H × W pixels, C channels.

    Attributes:
        images: uint8 [N, H, W], or [N, H, W, C].
        labels: int64 [N], 0 to ``classes`` - 1.
        classes: how many there are.
    """

    images: Tensor
    labels: Tensor
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """The images and labels at these places."""
        chosen = torch.from_numpy(indices)
        return self.images[chosen], self.labels[chosen]

    def part(self, start: int, stop: int) -> "LabelledImages":
        """Those from ``start`` to before ``stop``, without a copy."""
        return LabelledImages(self.images[start:stop], self.labels[start:stop], self.classes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of pixels and labels."""
        hashed = hashlib.sha256(str(tuple(self.images.shape)).encode())
        for tensor in (self.images, self.labels):
            hashed.update(tensor.contiguous().numpy().data)
        return hashed.hexdigest()


def read_images(folder: str | Path, split: str = "train", *, valid: int = 0, classes: int = 10) -> LabelledImages:
    """A split of a folder of idx files, plain or gzipped, named as MNIST's are.

    Args:
        folder: holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte`` and the two of ``t10k``, or these with
            ``.gz``.
        split: ``train``, ``test``, or ``valid``.
        valid: the last so many training images are the split ``valid`` and are not in ``train``.
        classes: labels are below this.

    Raises:
        UserError: if a file is missing or damaged, there are not as many labels as images, a label is none of the
            classes, or ``valid`` leaves nothing.
    """
    folder = Path(folder)
    part = PARTS.get("train" if split == "valid" else split)
    if part is None:
        raise UserError(f"There is no split {split!r} of images.", "Choose train, valid or test.")
    image_file, label_file = _find(folder, f"{part}-images", 3), _find(folder, f"{part}-labels", 1)
    images, labels = read_idx(image_file, 3), read_idx(label_file, 1).long()
    if len(images) != len(labels):
        raise UserError(
            f"{image_file} holds {len(images):,} images and {label_file} {len(labels):,} labels.",
            "Take the two files of one set.",
        )
    high = int(labels.max())
    if high >= classes:
        place = int((labels >= classes).nonzero()[0])
        raise UserError(
            f"{label_file}: label {place:,} (byte {8 + place:,}) is {int(labels[place])}; there are {classes} classes.",
            "Take the labels that belong to the images.",
        )
    whole = LabelledImages(images, labels, classes)
    return whole.part(*cut_split(len(whole), split, valid))


def cut_split(count: int, split: str, valid: int) -> tuple[int, int]:
    """Where ``train`` or ``valid`` begins and ends in so many training images, or ``test`` in its own.

    Raises:
        UserError: if so many cannot be held out.
    """
    if split == "test":
        return 0, count
    if not 0 <= valid < count or (split == "valid" and not valid):
        raise UserError(
            f"{valid:,} of {count:,} training images cannot be held out.",
            f"Take 1 to {count - 1:,}, or evaluate on the test images.",
        )
    cut = count - valid
    return (0, cut) if split == "train" else (cut, count)


def _find(folder: Path, stem: str, dimensions: int) -> Path:
    """The file of that kind, under any of the names that it goes by."""
    names = [f"{stem}{mark}idx{dimensions}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder.", "Name the folder that holds the idx files of MNIST.")
    raise UserError(f"{folder} has no {names[0]} (or {names[1]}).", "Name the folder that holds MNIST's four files.")
