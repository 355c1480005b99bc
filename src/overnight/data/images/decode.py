"""Encoded bytes → RGB pixels, by Pillow; what cannot be decoded is named."""

import io
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from overnight.errors import UserError


def pillow() -> Any:
    """Pillow's Image module.

    Raises:
        UserError: if Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError:
        raise UserError("Reading image files needs Pillow.", "pip install 'overnight[images]'") from None
    return Image


def decode(data: bytes) -> Tensor:
    """uint8 [H, W, 3] of an encoded image of any mode: greyscale, CMYK, palette and 16 bits become RGB of 8.

    Raises:
        ValueError: if it cannot be decoded, or ends too soon.
    """
    image_module = pillow()
    try:
        with image_module.open(io.BytesIO(data)) as image:
            image.load()
            if image.mode.startswith("I"):  # whose conversion to RGB would clip at 255
                grey = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                pixels = np.repeat(grey[:, :, None], 3, 2)
            else:
                pixels = np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise many kinds
        raise ValueError(f"{type(error).__name__}: {str(error) or 'cannot be decoded'}") from None
    return torch.from_numpy(pixels)


def resized(pixels_HWC: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with antialiasing, uint8 [height, width, 3]; pixels of that size are returned as they are."""
    if pixels_HWC.shape[:2] == (height, width):
        return pixels_HWC
    x_BCHW = pixels_HWC.permute(2, 0, 1).unsqueeze(0)
    made = F.interpolate(x_BCHW, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return made[0].permute(1, 2, 0).contiguous()


def centre(pixels_HWC: Tensor, size: int, margin: float = 1.0) -> Tensor:
    """The middle square: the shorter side becomes size · margin, then size × size is cut out of the middle.

    >>> centre(torch.zeros(40, 60, 3, dtype=torch.uint8), 20, margin=1.5).shape
    torch.Size([20, 20, 3])
    """
    height, width = pixels_HWC.shape[:2]
    scale = round(size * margin) / min(height, width)
    height, width = max(size, round(height * scale)), max(size, round(width * scale))
    top, left = (height - size) // 2, (width - size) // 2
    return resized(pixels_HWC, height, width)[top : top + size, left : left + size].contiguous()
