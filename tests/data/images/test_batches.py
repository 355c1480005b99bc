"""Shuffled batches: every image once an epoch, the same for any number of ranks, another order every epoch."""

import pytest
import torch

from overnight.data.images.batches import ImageBatches
from overnight.data.images.memory import LabelledImages
from overnight.errors import UserError


def numbered(count: int) -> LabelledImages:
    labels = torch.arange(count)
    return LabelledImages(labels.to(torch.uint8).view(-1, 1, 1).expand(-1, 2, 2), labels, count)


@pytest.mark.parametrize("batch", [1, 3, 7, 10])
def test_every_image_once_an_epoch(batch: int) -> None:
    batches = ImageBatches(numbered(10), batch, seed=4)
    assert batches.steps_per_epoch == 10 / batch
    drawn = torch.cat([batches.at(step).label_B for step in range(3 * 10)])[:30].view(3, 10)
    assert all(sorted(epoch.tolist()) == list(range(10)) for epoch in drawn)
    assert len({tuple(epoch.tolist()) for epoch in drawn}) == 3
    assert all(len(batches.at(step).label_B) == batch for step in range(12))


def test_a_batch_is_a_function_of_seed_step_and_place() -> None:
    whole = ImageBatches(numbered(50), 12, seed=1)
    for step in (0, 4, 9, 100):
        batch = whole.at(step)
        assert torch.equal(batch.image_BHW[:, 0, 0].long(), batch.label_B)
        parts = [ImageBatches(numbered(50), 12, seed=1).at(step, first, 4).label_B for first in (0, 4, 8)]
        assert torch.equal(torch.cat(parts), batch.label_B)
    assert not torch.equal(whole.at(0).label_B, ImageBatches(numbered(50), 12, seed=2).at(0).label_B)
    assert len(whole.at(0, 3, 0).label_B) == 0


def test_what_does_not_fit() -> None:
    with pytest.raises(UserError, match=r"There are 10 images, too few for a batch of 11\. The largest .* is 10\."):
        ImageBatches(numbered(10), 11)
    with pytest.raises(UserError, match="A batch of 0 images"):
        ImageBatches(numbered(10), 0)
