"""Which images a folder holds, and a split of them: idx files, CIFAR's binaries, class folders or tar files."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from overnight.data.images.cifar import find_cifar, read_cifar
from overnight.data.images.files import Item, class_folder, find_split, tar_items
from overnight.data.images.memory import LabelledImages, cut_split, read_images
from overnight.data.images.stored import Bad, StoredImages
from overnight.errors import UserError

SPLITS = {"train": ("train",), "test": ("test", "val")}
HELD_BYTES = 2 << 30
"""Images of up to so many bytes of pixels are held in memory."""


def open_images(
    folder: str | Path,
    split: str = "train",
    *,
    valid: int = 0,
    classes: int | None = None,
    size: int | None = None,
    margin: float = 1.0,
    bad_images: Bad = "stop",
    in_files: bool = False,
    workers: int | None = None,
) -> LabelledImages | StoredImages:
    """A split of a folder of labelled images.

    The folder holds one of: MNIST's idx files; CIFAR's binary files; ``train/CLASS/NAME.jpg`` and ``test/CLASS/…`` (or
    ``val``); ``train*.tar`` or ``train/*.tar`` with such folders or WebDataset's pairs of ``.jpg`` and ``.cls`` in
    them; ``train.tar.gz``, for small sets.

    Args:
        folder: the folder.
        split: ``train``, ``test`` or ``valid``.
        valid: so many training images are the split ``valid`` and are not in ``train``: the last, or of image files
            always the same random ones.
        classes: of idx files; the others say it themselves.
        size: images are size × size; None for 28 of idx, 32 of CIFAR.
        margin: see ``StoredImages``.
        bad_images: ``stop`` or ``skip``.
        in_files: leave image files where they are, for augmentation that needs all of them; otherwise only more than
            2 GiB of pixels stay there.
        workers: threads that decode; None for one a core.

    Raises:
        UserError: if the folder holds none of these, something is damaged, the classes of train and test differ, or
            ``valid`` leaves nothing.

    Example:
        ``len(open_images("cifar-10-batches-bin", "test"))``
    """
    folder = Path(folder)
    if split not in (*SPLITS, "valid"):
        raise UserError(f"There is no split {split!r} of images.", "Choose train, valid or test.")
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder.", "Name the folder that holds the images.")
    part = "train" if split == "valid" else split
    cifar = find_cifar(folder)
    if cifar is None and any(folder.glob("*-images[-.]idx3-ubyte*")):
        images = read_images(folder, split, valid=valid, classes=classes or 10)
        return _of_size(images, size, folder)
    if cifar is not None:
        images = _of_size(LabelledImages(*read_cifar(*cifar, part), cifar[1]), size, folder)
        return images.part(*cut_split(len(images), split, valid))
    if size is None:
        raise UserError(f"{folder} holds image files, and no size is given.", "Say which, such as size=224.")
    if not in_files:
        count = len(_listing(folder, part)[0])
        in_files = count * size * size * 3 > HELD_BYTES
    if not in_files:
        held = _held(folder, part, size, margin, bad_images, workers)
        return held.part(*cut_split(len(held), split, valid))
    items, names = _listing(folder, part)
    stored = StoredImages(items, names, size, margin=margin, bad_images=bad_images, workers=workers)
    keep = range(*cut_split(len(stored), split, valid))
    return stored if len(keep) == len(stored) else stored.part(keep)


def pixels_of(folder: str | Path) -> tuple[int, int] | None:
    """Side and channels of idx files and of CIFAR's; None for image files, which have any."""
    folder = Path(folder)
    if find_cifar(folder) is not None:
        return 32, 3
    if any(folder.glob("*-images[-.]idx3-ubyte*")):
        return int(read_images(folder, "test").images.shape[1]), 1
    return None


def _of_size(images: LabelledImages, size: int | None, folder: Path) -> LabelledImages:
    side = images.images.shape[1]
    if size not in (None, side):
        raise UserError(
            f"The images in {folder} are {side} × {side}, not {size} × {size}.", f"Take a preset of {side}."
        )
    return images


@lru_cache(maxsize=4)
def _held(folder: Path, part: str, size: int, margin: float, bad_images: Bad, workers: int | None) -> LabelledImages:
    """Decoded once a process, for training, evaluations and baselines."""
    items, names = _listing(folder, part)
    return StoredImages(items, names, size, margin=margin, bad_images=bad_images, workers=workers).held()


@lru_cache(maxsize=4)
def _listing(folder: Path, part: str) -> tuple[Sequence[Item], Sequence[str]]:
    """Items of a split, those of train in a fixed random order, and the classes of both, which are the same."""
    lists = {name: _items(folder, name) for name in SPLITS}
    items = lists[part]
    if items is None:
        names = " or ".join(f"{name}/" for name in SPLITS[part])
        raise UserError(
            f"{folder} has no {names} of class folders, no {part}.tar, and no files of MNIST or CIFAR.",
            "Name the folder that holds the images.",
        )
    found = {name: {item.label for item in lists[name] or ()} for name in SPLITS if lists[name] is not None}
    for name, other in (("train", "test"), ("test", "train")):
        if name in found and other in found and found[name] - found[other]:
            some = ", ".join(sorted(found[name] - found[other])[:5])
            raise UserError(
                f"{folder}: the classes of {name} and {other} differ: {other} has no {some}.",
                "Give both the same class folders.",
            )
    classes = sorted(found[part], key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name))
    if part == "train":
        items = [items[place] for place in np.random.default_rng(0).permutation(len(items))]
    return items, classes


def _items(folder: Path, part: str) -> list[Item] | None:
    where = find_split(folder, SPLITS[part])
    if where is None:
        return None
    tars, classes = where
    return tar_items(tars) if classes is None else class_folder(classes)
