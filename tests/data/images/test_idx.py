"""The idx reader: MNIST's own files, and every way in which a file can be something else."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.digits import bars, idx, write_digits

from overnight.data.images.idx import read_idx
from overnight.data.images.memory import read_images
from overnight.errors import UserError

IMAGES, LABELS = bars(6, 3)


@pytest.mark.parametrize("compressed", [True, False])
def test_what_was_written_is_read(tmp_path: Path, compressed: bool) -> None:
    folder = write_digits(tmp_path, train=20, test=6, compressed=compressed)
    train, test = read_images(folder, "train"), read_images(folder, "test")
    images, labels = bars(20, 1)
    assert train.images.dtype == torch.uint8
    assert (train.labels.dtype, len(test)) == (torch.int64, 6)
    assert np.array_equal(train.images.numpy(), images)
    assert np.array_equal(train.labels.numpy(), labels)
    assert train.digest != test.digest
    kept, valid = read_images(folder, "train", valid=5), read_images(folder, "valid", valid=5)
    assert torch.equal(torch.cat([kept.images, valid.images]), train.images)
    assert torch.equal(torch.cat([kept.labels, valid.labels]), train.labels)


def test_mnist_itself() -> None:
    if "OVERNIGHT_DATA" not in os.environ:
        pytest.skip("OVERNIGHT_DATA does not name the folder of real data")
    folder = Path(os.environ["OVERNIGHT_DATA"]) / "mnist"
    train, test = read_images(folder, "train"), read_images(folder, "test")
    assert (train.images.shape, test.images.shape) == ((60_000, 28, 28), (10_000, 28, 28))
    assert train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert train.labels.bincount().tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (idx(LABELS), "byte 3 is 1; it holds labels. Give the idx file of images"),
        (b"\x00\x00\x0d\x03" + idx(IMAGES)[4:], "byte 2 is 13; that of an idx file of images is 8"),
        (b"\x89PNG\r\n\x1a\n", "byte 0 is 137"),
        (b"", "ends at byte 0, inside its header of 16 bytes"),
        (idx(IMAGES)[:10], "ends at byte 10, inside its header"),
        (idx(IMAGES)[:-1], r"ends at byte 4,719; its header says 6 × 28 × 28, 4,720 bytes in all"),
        (idx(IMAGES) + b"\x00", "goes on after byte 4,720"),
        (idx(IMAGES[:0]), "holds no images"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, "ends at byte 16; its header says 4,294,967,295 ×"),
    ],
)
def test_other_files_are_named(tmp_path: Path, data: bytes, said: str) -> None:
    for name, content in (("a", data), ("b.gz", gzip.compress(data))):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{name}.*{said}"):
            read_idx(path, 3)


def test_torn_and_absent_files(tmp_path: Path) -> None:
    whole = gzip.compress(idx(IMAGES))
    for name, data in (("cut.gz", whole[:-20]), ("plain.gz", idx(IMAGES)), ("bent.gz", whole[:40] + b"\xff" * 40)):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=f"{name} is not a whole gzip file"):
            read_idx(tmp_path / name, 3)
    with pytest.raises(UserError, match=r"none\.gz does not exist"):
        read_idx(tmp_path / "none.gz", 3)
    with pytest.raises(UserError, match="cannot be read"):
        read_idx(tmp_path, 3)


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a folder"):
        read_images(tmp_path / "none")
    with pytest.raises(UserError, match="has no train-images-idx3-ubyte"):
        read_images(tmp_path)
    folder = write_digits(tmp_path / "digits", train=20, test=6)
    with pytest.raises(UserError, match="no split 'dev'"):
        read_images(folder, "dev")
    for valid in (0, 20, -1):
        with pytest.raises(UserError, match=f"{valid} of 20 training images cannot be held out"):
            read_images(folder, "valid", valid=valid)
    with pytest.raises(UserError, match=r"label \d+ \(byte \d+\) is \d; there are 4 classes"):
        read_images(folder, classes=4)
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS)))
    with pytest.raises(UserError, match=r"holds 20 images and .* 6 labels"):
        read_images(folder)
