"""Augmentation of tensors: random crops and flips that are a function of (seed, sample), whoever makes them.

Sample s of a run is image s - t·B of the batch of step t. Its uniform numbers are words 4·s … of a Philox stream of
the seed, so that neither ranks, micro-batches, nor the batch size change them.
Shape suffixes: B images, H × W pixels, C channels.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from overnight.data.images.decode import resized

BLOCK = 4
"""Words that one step of Philox's counter gives: the numbers of one sample."""


def draws(seed: int, first: int, count: int) -> npt.NDArray[np.float64]:
    """Four numbers in [0, 1) for each of the samples ``first`` to ``first + count``.

    >>> bool((draws(0, 2, 3) == draws(0, 0, 9)[2:5]).all())
    True
    """
    stream = np.random.Philox(key=seed)
    stream.advance(first)
    words = stream.random_raw(BLOCK * count).reshape(count, BLOCK)
    uniform: npt.NDArray[np.float64] = (words >> np.uint64(11)) * 2.0**-53
    return uniform


def crop_flip(image_BHWC: Tensor, uniform: npt.NDArray[np.float64], *, padding: int, flip: bool) -> Tensor:
    """A crop of the image's own size out of it with ``padding`` black pixels around, mirrored half the time.

    He et al. 2016, §4.2 (padding 4). ``image_BHWC``: [B, H, W, C] or [B, H, W].
    """
    height, width = image_BHWC.shape[1:3]
    side = 2 * padding + 1
    top, left = (torch.from_numpy((uniform[:, place] * side).astype(np.int64)) for place in (0, 1))
    edge = [0, 0] * (image_BHWC.dim() - 3) + [padding] * 4
    padded = torch.nn.functional.pad(image_BHWC, edge)
    rows = top[:, None] + torch.arange(height)
    columns = left[:, None] + torch.arange(width)
    if flip:
        mirrored = torch.from_numpy(uniform[:, 2] < 0.5)[:, None]
        columns = torch.where(mirrored, columns.flip(1), columns)
    return padded[torch.arange(len(padded))[:, None, None], rows[:, :, None], columns[:, None, :]]


@dataclass(frozen=True)
class ResizedCrop:
    """A random share of the image's area at a random aspect ratio, resized to size × size, mirrored half the time.

    Szegedy et al. 2015 (arXiv 1409.4842). The area is uniform in ``scale``, the logarithm of the ratio in ``ratio``;
    where that rectangle does not fit, it is shrunk until it does (others draw again, for which there is no bound).

    Attributes:
        size: of the result.
        scale: least and greatest share of the area.
        ratio: least and greatest width by height.

    >>> ResizedCrop(8)(torch.zeros(30, 20, 3, dtype=torch.uint8), np.array([0.1, 0.5, 0.7, 0.3])).shape
    torch.Size([8, 8, 3])
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, pixels_HWC: Tensor, uniform: npt.NDArray[np.float64]) -> Tensor:
        height, width = pixels_HWC.shape[:2]
        high, wide = self.box(height, width, uniform)
        # the last number decides on top, left and flip: each takes its own bits of it
        place = float(uniform[3]) * 2
        flip, place = place >= 1, place % 1.0
        top = min(int(float(uniform[2]) * (height - high + 1)), height - high)
        left = min(int(place * (width - wide + 1)), width - wide)
        cut = resized(pixels_HWC[top : top + high, left : left + wide], self.size, self.size)
        return cut.flip(1) if flip else cut.contiguous()

    def box(self, height: int, width: int, uniform: npt.NDArray[np.float64]) -> tuple[int, int]:
        """Height and width of what is cut out."""
        area = height * width * (self.scale[0] + float(uniform[0]) * (self.scale[1] - self.scale[0]))
        low, high = (math.log(value) for value in self.ratio)
        ratio = math.exp(low + float(uniform[1]) * (high - low))
        wide, tall = math.sqrt(area * ratio), math.sqrt(area / ratio)
        shrink = min(1.0, width / wide, height / tall)
        return max(1, round(tall * shrink)), max(1, round(wide * shrink))
