"""CIFAR's files, class folders and tars of images: what is read, and what is said when something is wrong."""

import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.digits import write_digits
from oracles.pictures import encoded, pictures, records, write_cifar, write_folders

from overnight.data.images import sources
from overnight.data.images.batches import image_batches
from overnight.data.images.decode import decode
from overnight.data.images.memory import LabelledImages
from overnight.data.images.sources import open_images, pixels_of
from overnight.data.images.stored import StoredImages
from overnight.errors import UserError

pytest.importorskip("PIL")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """A test changes the files that another has read."""
    yield
    sources._held.cache_clear()
    sources._listing.cache_clear()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_cifar(tmp_path: Path) -> None:
    write_cifar(tmp_path / "data" / "cifar-10-batches-bin")
    images, labels = pictures(100, 1)
    found = open_images(tmp_path / "data", "train")
    assert isinstance(found, LabelledImages)
    assert torch.equal(found.images, torch.from_numpy(images))
    assert found.labels.tolist() == labels.tolist()
    assert (found.classes, pixels_of(tmp_path / "data")) == (10, (32, 3))
    held = open_images(tmp_path / "data", "valid", valid=30)
    assert isinstance(held, LabelledImages)
    assert torch.equal(held.images, found.images[70:])
    assert len(open_images(tmp_path / "data", "train", valid=30)) == 70


def test_cifar_100_has_fine_labels(tmp_path: Path) -> None:
    images, labels = pictures(20, 3)
    data = np.frombuffer(records(images, labels), np.uint8).reshape(20, -1)
    coarse = np.full((20, 1), 7, np.uint8)
    for name in ("train.bin", "test.bin"):
        (tmp_path / name).write_bytes(np.concatenate([coarse, data], 1).tobytes())
    found = open_images(tmp_path, "test")
    assert (found.labels.tolist(), found.classes) == (labels.tolist(), 100)
    assert torch.equal(found.read(np.arange(20))[0], torch.from_numpy(images))


def shorten(folder: Path) -> None:
    path = folder / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-5])


def relabel(folder: Path) -> None:
    path = folder / "data_batch_2.bin"
    data = bytearray(path.read_bytes())
    data[3073 * 4] = 12
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (shorten, r"data_batch_3.bin has 61,455 bytes, no whole number of records of 3,073"),
        (relabel, r"data_batch_2.bin: record 4 \(byte 12,292\) has label 12; there are 10"),
        (lambda folder: (folder / "data_batch_5.bin").unlink(), r"data_batch_5.bin does not exist. Unpack all files"),
    ],
)
def test_damaged_cifar(tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    spoil(write_cifar(tmp_path))
    with pytest.raises(UserError, match=said):
        open_images(tmp_path, "train")


def test_class_folders(tmp_path: Path) -> None:
    write_folders(tmp_path)
    (tmp_path / "train" / "a" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / "a" / ".hidden.png").write_bytes(b"nor this")
    images, labels = pictures(12, 1, 3)
    found = open_images(tmp_path, "train", size=32)
    assert isinstance(found, LabelledImages)
    mine = {bytes(image): int(label) for image, label in zip(images, labels, strict=True)}
    read = {bytes(image.numpy()): int(label) for image, label in zip(found.images, found.labels, strict=True)}
    assert read == mine
    assert found.labels.tolist() != sorted(found.labels.tolist())  # what is held out is of all classes
    test = open_images(tmp_path, "test", size=32)
    assert test.labels.tolist() == sorted(pictures(6, 2, 3)[1].tolist())
    stored = open_images(tmp_path, "train", size=32, in_files=True, workers=2)
    assert isinstance(stored, StoredImages)
    assert torch.equal(stored.read(np.arange(12))[0], found.images)
    assert torch.equal(stored.labels, found.labels)
    part = open_images(tmp_path, "valid", size=32, in_files=True, valid=5)
    assert torch.equal(part.read(np.arange(5))[0], found.images[7:])


@pytest.mark.parametrize("name", ["train.tar", "train.tar.gz", "train/00000.tar"])
def test_tars_of_folders(tmp_path: Path, name: str) -> None:
    folders = write_folders(tmp_path / "folders")
    for part in ("train", "test"):
        members = {
            str(path.relative_to(folders)): path.read_bytes() for path in sorted((folders / part).rglob("*.png"))
        }
        write_tar(tmp_path / "tars" / name.replace("train", part), members)
    one, two = (
        open_images(folder, "train", size=32, in_files=in_files)
        for folder, in_files in ((folders, False), (tmp_path / "tars", True))
    )
    assert torch.equal(one.read(np.arange(12))[0], two.read(np.arange(12))[0])
    assert torch.equal(one.labels, two.labels)


def test_shards_of_pairs(tmp_path: Path) -> None:
    """WebDataset: an image and its class have one name up to its first dot; classes are ordered as numbers."""
    images, _ = pictures(6, 1)
    for part in ("train", "test"):
        for shard in range(2):
            members = {}
            for place in range(3):
                number = 3 * shard + place
                members[f"{number:04}.cls"] = str(2 * number).encode()
                members[f"{number:04}.png" if place else f"{number:04}.rgb.png"] = encoded(images[number])
            write_tar(tmp_path / f"{part}-{shard:05}.tar", members)
    found = open_images(tmp_path, "test", size=32)
    assert found.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(found.read(np.arange(6))[0], torch.from_numpy(images))


def test_wrong_folders(tmp_path: Path) -> None:
    folder = write_folders(tmp_path / "data")
    (folder / "test" / "c").rename(folder / "test" / "z")
    with pytest.raises(UserError, match="classes of train and test differ: test has no c"):
        open_images(folder, "train", size=32)
    (folder / "test" / "z").rename(folder / "test" / "c")
    (folder / "train" / "d").mkdir()
    sources._listing.cache_clear()
    with pytest.raises(UserError, match=r"Class 'd' is empty: .*train/d has no image"):
        open_images(folder, "train", size=32)
    for path, said in (
        (tmp_path / "none", "is not a folder"),
        (tmp_path, "has no train/ of class folders"),
    ):
        with pytest.raises(UserError, match=said):
            open_images(path, "train", size=32)
    (tmp_path / "flat" / "train").mkdir(parents=True)
    with pytest.raises(UserError, match="has no class folders"):
        open_images(tmp_path / "flat", "train", size=32)
    with pytest.raises(UserError, match="no size is given"):
        open_images(folder, "train")
    with pytest.raises(UserError, match="There is no split 'dev'"):
        open_images(folder, "dev", size=32)
    digits = write_digits(tmp_path / "digits", train=20, test=10)
    assert pixels_of(digits) == (28, 1)
    with pytest.raises(UserError, match="are 28 × 28, not 32 × 32"):
        open_images(digits, "train", size=32)
    with pytest.raises(UserError, match="small images, not files to cut from"):
        image_batches(corpus=str(digits), lanes=4, seed=0, augment="resized")


def test_wrong_tars(tmp_path: Path) -> None:
    image = encoded(pictures(1, 1)[0][0])
    whole = write_tar(tmp_path / "cut" / "train.tar.gz", {"a/1.png": image}).read_bytes()
    (tmp_path / "cut" / "train.tar.gz").write_bytes(whole[:-40])
    with pytest.raises(UserError, match=r"train.tar.gz is not a whole tar file"):
        open_images(tmp_path / "cut", "train", size=32)
    write_tar(tmp_path / "bare" / "train.tar", {"1.png": image})
    with pytest.raises(UserError, match=r"train.tar: 1.png has no class"):
        open_images(tmp_path / "bare", "train", size=32)
    write_tar(tmp_path / "none" / "train.tar", {"a/1.txt": image})
    with pytest.raises(UserError, match="holds no image"):
        open_images(tmp_path / "none", "train", size=32)


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_colours_stay_what_they_are(mode: str) -> None:
    """JPEG keeps the channels of CMYK as they are, or inverted as Adobe has them: Pillow tells which."""
    pixels = np.zeros((24, 32, 3), np.uint8)
    colours = [(230, 20, 20), (20, 230, 20), (20, 20, 230), (230, 230, 230)]
    for place, colour in enumerate(colours):
        pixels[:, 8 * place : 8 * place + 8] = colour
    found = decode(encoded(pixels, "JPEG", mode)).float()
    for place, colour in enumerate(colours):
        middle = found[8:16, 8 * place + 2 : 8 * place + 6].mean((0, 1))
        assert (middle - torch.tensor(colour)).abs().max() < 12, colour


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP"])
def test_what_ends_too_soon_is_not_taken_for_whole(form: str) -> None:
    data = encoded(pictures(1, 5)[0][0], form)
    assert decode(data).shape == (32, 32, 3)
    for share in (0.0, 0.1, 0.6, 0.9):
        with pytest.raises(ValueError):
            decode(data[: int(share * len(data))])


@pytest.mark.parametrize(
    ("mode", "form"),
    [("L", "PNG"), ("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "PNG"), ("1", "PNG"), ("LA", "PNG")],
)
def test_every_mode_becomes_rgb(mode: str, form: str) -> None:
    value = 255 if mode == "1" else 204  # which a palette has, so that nothing is dithered
    pixels = np.full((20, 10, 3), value, np.uint8)
    found = decode(encoded(pixels, form, mode))
    assert (found.shape, found.dtype) == ((20, 10, 3), torch.uint8)
    assert (found.float() - value).abs().max() <= 3


def test_sixteen_bits_become_eight() -> None:
    found = decode(encoded(np.full((4, 6), 0x8C00, np.uint16)))
    assert found.unique().tolist() == [0x8C]


def test_bad_images_stop_and_are_counted_or_are_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_folders(tmp_path)
    files = sorted((folder / "train").rglob("*.png"))
    files[0].write_bytes(files[0].read_bytes()[:1500])
    files[5].write_bytes(b"this is no image")
    with pytest.raises(UserError, match=r"2 of 12 images cannot be decoded: .*\.png \(.*; .*\.png \(.*--bad-images"):
        open_images(folder, "train", size=32)
    kept = open_images(folder, "train", size=32, bad_images="skip")
    assert len(kept) == 10
    said = capsys.readouterr().err
    assert "2 of 12" in said
    assert str(files[0]) in said
    assert str(files[5]) in said
    stored = open_images(folder, "train", size=32, in_files=True)
    with pytest.raises(UserError, match=r"\.png cannot be decoded"):
        stored.read(np.arange(12))
    skipping = open_images(folder, "train", size=32, in_files=True, bad_images="skip")
    assert isinstance(skipping, StoredImages)
    read, labels = skipping.read(np.arange(12))
    assert set(skipping.bad) == {str(files[0]), str(files[5])}
    assert "Skipped (2 so far)" in capsys.readouterr().err
    bad = next(place for place, item in enumerate(skipping.items) if item.name == str(files[5]))
    assert torch.equal(read[bad], read[(bad + 1) % 12])  # the next one stands in, with its own label
    assert labels[bad] == skipping.labels[(bad + 1) % 12]
    for path in (folder / "train" / "b").iterdir():
        path.write_bytes(b"")
    sources._held.cache_clear()
    with pytest.raises(UserError, match="No image of class 'b' can be decoded"):
        open_images(folder, "train", size=32, bad_images="skip")


def test_another_size_is_the_middle(tmp_path: Path) -> None:
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 20:40] = 255
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        (tmp_path / part / "a" / "1.png").write_bytes(encoded(wide))
    found, _ = open_images(tmp_path, "train", size=10).read(np.arange(1))
    assert found.shape == (1, 10, 10, 3)
    assert int(found[:, :, 1:-1].min()) == 255
    narrow, _ = open_images(tmp_path, "train", size=10, margin=2.0).read(np.arange(1))
    assert int(narrow.min()) == 255
