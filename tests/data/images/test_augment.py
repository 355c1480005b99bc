"""Augmentation: a function of (seed, sample), crops that are crops, and batches made ahead of time."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles.pictures import pictures, write_cifar, write_folders

from overnight.data.images.ahead import Ahead
from overnight.data.images.augment import ResizedCrop, crop_flip, draws
from overnight.data.images.batches import image_batches
from overnight.errors import UserError


def test_draws_are_uniform_and_of_their_sample() -> None:
    whole = draws(3, 0, 100_000)
    assert np.array_equal(whole[100:200], draws(3, 100, 100))
    assert not np.array_equal(whole, draws(4, 0, 100_000))
    assert whole.min() >= 0
    assert whole.max() < 1
    assert np.abs(whole.mean(0) - 0.5).max() < 0.005
    assert np.abs(np.corrcoef(whole.T) - np.eye(4)).max() < 0.02


@pytest.mark.parametrize("grey", [False, True])
def test_crops_of_the_padded_image(grey: bool) -> None:
    images = torch.from_numpy(pictures(40, 1)[0])
    images = images[..., 0] if grey else images
    uniform = draws(0, 0, 40)
    found = crop_flip(images, uniform, padding=4, flip=True)
    seen = set()
    for image, made, (up, along, mirror, _) in zip(images, found, uniform, strict=True):
        padded = np.pad(image.numpy(), ((4, 4), (4, 4)) if grey else ((4, 4), (4, 4), (0, 0)))
        top, left = int(up * 9), int(along * 9)
        expected = padded[top : top + 32, left : left + 32]
        assert np.array_equal(made.numpy(), expected[:, ::-1] if mirror < 0.5 else expected)
        seen.add((top, left, mirror < 0.5))
    assert len(seen) > 30
    plain = crop_flip(images, np.full((40, 4), 0.5), padding=4, flip=False)
    assert torch.equal(plain, images)


def test_resized_crops() -> None:
    crop = ResizedCrop(16)
    for height, width in ((50, 80), (80, 50), (200, 20), (7, 7), (1, 1)):
        for numbers in draws(0, 0, 50):
            high, wide = crop.box(height, width, numbers)
            assert 1 <= high <= height
            assert 1 <= wide <= width
    areas = [np.prod(crop.box(300, 300, numbers)) / 90_000 for numbers in draws(1, 0, 500)]
    assert 0.078 < min(areas) < 0.11
    assert 0.48 < np.mean(areas) < 0.56
    x = torch.arange(16, dtype=torch.uint8).view(1, 16, 1).expand(16, 16, 3).contiguous()
    whole = partial(ResizedCrop(16, scale=(1.0, 1.0), ratio=(1.0, 1.0)), x)
    assert torch.equal(whole(np.array([0, 0, 0, 0.1])), x)
    assert torch.equal(whole(np.array([0, 0, 0, 0.9])), x.flip(1))


def test_batches_do_not_depend_on_how_they_are_cut(tmp_path: Path) -> None:
    folder = str(write_cifar(tmp_path))
    batches = image_batches(corpus=folder, lanes=40, seed=1, augment="crop")
    plain = image_batches(corpus=folder, lanes=40, seed=1)
    whole = batches.at(2)
    assert whole.image_BHW.shape == (40, 32, 32, 3)
    assert torch.equal(whole.label_B, plain.at(2).label_B)
    assert not torch.equal(whole.image_BHW, plain.at(2).image_BHW)
    parts = [batches.at(2, first, 10).image_BHW for first in (0, 10, 20, 30)]
    assert torch.equal(torch.cat(parts), whole.image_BHW)
    small = image_batches(corpus=folder, lanes=20, seed=1, augment="crop")
    assert torch.equal(torch.cat([small.at(4).image_BHW, small.at(5).image_BHW]), whole.image_BHW)
    other = image_batches(corpus=folder, lanes=40, seed=2, augment="crop")
    assert not torch.equal(other.at(2).image_BHW, whole.image_BHW)
    with pytest.raises(UserError, match="There is no augmentation 'cut'"):
        image_batches(corpus=folder, lanes=40, seed=1, augment="cut")


def test_batches_made_ahead_are_the_same(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    folder = str(write_folders(tmp_path))
    ahead = image_batches(corpus=folder, lanes=4, seed=1, size=24, augment="resized", workers=2)
    assert isinstance(ahead, Ahead)
    assert ahead.steps_per_epoch == 3
    assert ahead.at(0).image_BHW.shape == (4, 24, 24, 3)
    asked = [(t, first, 2) for t in range(4) for first in (0, 2)] + [(9, 0, 2), (1, 2, 2)]
    made_ahead = 0
    for key in asked:
        made_ahead += ahead._made is not None and ahead._made[0] == key
        one, two = ahead.at(*key), ahead.batches.at(*key)
        assert torch.equal(one.image_BHW, two.image_BHW)
        assert torch.equal(one.label_B, two.label_B)
    assert made_ahead >= 5
    whole = ahead.at(3)
    assert torch.equal(whole.image_BHW[2:], ahead.at(3, 2, 2).image_BHW)
