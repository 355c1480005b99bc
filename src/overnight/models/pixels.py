"""From stored images to what a convolution takes. Shape suffixes: B images, H × W pixels, C channels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from overnight.errors import UserError


class Pixels(nn.Module):
    """(x / 255 - mean) / std of each channel; [B, H, W, C] → [B, C, H, W] in channels-last memory, without a copy.

    Args:
        channels: C.
        mean, std: of each channel in [0, 1].

    Raises:
        UserError: unless there are C means and C deviations above 0, and in a call for images of other channels.

    >>> Pixels(1, [0.5], [0.5])(torch.full((1, 2, 2), 255, dtype=torch.uint8), torch.float32).unique()
    tensor([1.])
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != channels or len(std) != channels or not all(value > 0 for value in std):
            raise UserError(
                f"mean={tuple(mean)} and std={tuple(std)} do not fit {channels} channels.",
                "Give one of each for a channel, deviations above 0.",
            )
        self.channels = channels
        for name, values in (("mean", mean), ("std", std)):
            tensor = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) * 255
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, image_BHWC: Tensor, dtype: torch.dtype) -> Tensor:
        if image_BHWC.dim() == 3:
            image_BHWC = image_BHWC.unsqueeze(-1)
        if image_BHWC.dim() != 4 or image_BHWC.shape[3] != self.channels:
            raise UserError(
                f"Images of shape {tuple(image_BHWC.shape)} do not have {self.channels} channels, last.",
                "Set model.channels, model.mean and model.std.",
            )
        x_BCHW: Tensor = (image_BHWC.permute(0, 3, 1, 2).to(dtype) - self.mean) / self.std
        return x_BCHW
