"""Small colour images, the same on every machine and Python: a class is the colour and the place of a bright band."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SIDE = 32


def pictures(count: int, seed: int, classes: int = 10) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """uint8 [count, 32, 32, 3] and labels, all classes alike often."""
    raw = np.random.Philox(key=seed).random_raw(count * SIDE * SIDE * 3)
    images = (raw >> np.uint64(40) & np.uint64(63)).astype(np.uint8).reshape(count, SIDE, SIDE, 3)
    labels = (np.arange(count) * 7 % classes).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[3 * label : 3 * label + 4, :, label % 3] += 150
    return images, labels


def write_cifar(folder: Path, *, train: int = 100, test: int = 40) -> Path:
    """CIFAR-10's binary files."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = pictures(train, 1)
    for number in range(5):
        part = slice(number * train // 5, (number + 1) * train // 5)
        (folder / f"data_batch_{number + 1}.bin").write_bytes(records(images[part], labels[part]))
    (folder / "test_batch.bin").write_bytes(records(*pictures(test, 2)))
    return folder


def records(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> bytes:
    """A label byte, then the three planes, of each image."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels[:, None], planes], 1).tobytes()


def encoded(pixels: npt.NDArray[Any], form: str = "PNG", mode: str | None = None) -> bytes:
    """An image file's bytes."""
    from PIL import Image

    image = Image.fromarray(pixels)
    out = io.BytesIO()
    (image if mode is None else image.convert(mode)).save(out, form)
    return out.getvalue()


def write_folders(folder: Path, *, train: int = 12, test: int = 6, classes: int = 3) -> Path:
    """``train/CLASS/NUMBER.png`` and ``test/…``."""
    for part, count, seed in (("train", train, 1), ("test", test, 2)):
        for number, (image, label) in enumerate(zip(*pictures(count, seed, classes), strict=True)):
            where = folder / part / "abcdefghij"[label]
            where.mkdir(parents=True, exist_ok=True)
            (where / f"{number:03}.png").write_bytes(encoded(image))
    return folder
