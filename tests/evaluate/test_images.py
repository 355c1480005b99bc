"""Accuracy on images: every one once, in calls that large images make smaller, and whatever the calls are."""

import pytest
import torch
from torch import Tensor, nn

from overnight.data.images.memory import LabelledImages
from overnight.evaluate.images import CALL_IMAGES, CALL_PIXELS, evaluate_images


class Counting(nn.Module):
    """Says the class that the first pixel has, and remembers how many it was asked at once."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.zeros(())), list[int]()

    def forward(self, image_BHW: Tensor) -> Tensor:
        self.calls.append(len(image_BHW))
        return nn.functional.one_hot(image_BHW[:, 0, 0, 0].long(), 7).float()


def images(count: int, side: int) -> LabelledImages:
    labels = torch.arange(count) % 7
    said = labels.clone()
    said[::5] = (said[::5] + 1) % 7
    pixels = said.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, side, side, 3)
    return LabelledImages(pixels, labels, 7)


@pytest.mark.parametrize(("count", "side", "most"), [(2100, 32, CALL_IMAGES), (200, 224, CALL_PIXELS // 224**2)])
def test_calls_are_bounded_in_images_and_in_pixels(count: int, side: int, most: int) -> None:
    model = Counting()
    found = evaluate_images(model, images(count, side))
    assert (found.images, found.accuracy) == (count, 0.8)
    assert sum(model.calls) == count
    assert max(model.calls) == most
    assert model.training
