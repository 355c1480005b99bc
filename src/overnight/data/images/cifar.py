"""The binary files of CIFAR-10 and CIFAR-100 (Krizhevsky 2009): records of labels and 3 × 32 × 32 bytes.

CIFAR-10: one label byte; CIFAR-100: a coarse and a fine one, of which the fine one counts. Red, green and blue planes
follow each other, rows first.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from overnight.errors import UserError

SIDE = 32
PIXELS = 3 * SIDE * SIDE
FOLDERS = (".", "cifar-10-batches-bin", "cifar-100-binary")
PARTS = {
    10: {"train": [f"data_batch_{number}.bin" for number in range(1, 6)], "test": ["test_batch.bin"]},
    100: {"train": ["train.bin"], "test": ["test.bin"]},
}


def find_cifar(folder: Path) -> tuple[Path, int] | None:
    """The folder of the binary files, in ``folder`` or in the one that the archive unpacks to, and 10 or 100."""
    for name in FOLDERS:
        for classes, parts in PARTS.items():
            if (folder / name / parts["train"][0]).is_file():
                return folder / name, classes
    return None


def read_cifar(folder: Path, classes: int, part: str) -> tuple[Tensor, Tensor]:
    """The images uint8 [N, 32, 32, 3] and labels int64 [N] of ``train`` or ``test``.

    Raises:
        UserError: if a file is missing, is no whole number of records, or has a label that cannot be.
    """
    found = [_read_file(folder / name, classes) for name in PARTS[classes][part]]
    images, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def _read_file(path: Path, classes: int) -> tuple["np.ndarray[tuple[int, ...], np.dtype[np.uint8]]", ...]:
    record = PIXELS + (1 if classes == 10 else 2)
    try:
        data = np.fromfile(path, np.uint8)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist.", f"Unpack all files of CIFAR-{classes} (binary version).") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}).", "Check the file.") from None
    if not data.size or data.size % record:
        raise UserError(
            f"{path} has {data.size:,} bytes, no whole number of records of {record:,}.", "Get the file again."
        )
    data = data.reshape(-1, record)
    labels = data[:, record - PIXELS - 1]
    if int(labels.max()) >= classes:
        place = int((labels >= classes).argmax())
        raise UserError(
            f"{path}: record {place:,} (byte {place * record:,}) has label {labels[place]}; there are {classes}.",
            "Get the file again.",
        )
    images = data[:, record - PIXELS :].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), labels
