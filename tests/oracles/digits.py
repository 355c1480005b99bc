"""Images in MNIST's files, the same on every machine and Python: a class is the place of a bright bar."""

import gzip
from pathlib import Path

import numpy as np
import numpy.typing as npt

CLASSES = 10


def idx(array: npt.NDArray[np.uint8]) -> bytes:
    """An array of unsigned bytes as an idx file."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    return head + array.tobytes()


def bars(count: int, seed: int, side: int = 28) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images [N, side, side] of noise with a bar over two rows or two columns, and which of them."""
    total, state = count * side * side + count, seed
    noise = np.empty(total, np.uint8)
    for place in range(total):
        state = (state * 1103515245 + 12345) % (1 << 31)
        noise[place] = state >> 20 & 63
    labels = (noise[-count:] * 5 + np.arange(count) * 7) % CLASSES
    images = noise[:-count].reshape(count, side, side)
    for image, label in zip(images, labels, strict=True):
        start = 2 + 5 * (label // 2)
        rows = (slice(start, start + 2), slice(None)) if label % 2 else (slice(None), slice(start, start + 2))
        image[rows] += 150
    return images, labels.astype(np.uint8)


def write_digits(folder: Path, *, train: int = 120, test: int = 40, compressed: bool = True) -> Path:
    """The four files in a folder, gzipped or plain."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, count, seed in (("train", train, 1), ("t10k", test, 2)):
        images, labels = bars(count, seed)
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            if compressed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array), mtime=0))
            else:
                (folder / name).write_bytes(idx(array))
    return folder
