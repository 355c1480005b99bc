"""Residual networks of He et al. 2016 (arXiv 1512.03385), with bottlenecks (v1.5) or basic blocks.

Shape suffixes: B images, C channels, H × W pixels, K classes. Weights have the names that they have in torchvision.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.models.pixels import Pixels
from overnight.nn.ghost_norm import batch_norm

STEMS = ("imagenet", "cifar")


class Block(nn.Module):
    """Residual block: relu(F(x) + shortcut(x)); F is two 3 × 3 convolutions, or 1 × 1, 3 × 3, 1 × 1 with a bottleneck.

    The stride is in the (first) 3 × 3 convolution, which for bottlenecks is v1.5: Goyal et al. 2017 (arXiv 1706.02677);
    the paper has it in the first 1 × 1.

    Args:
        channels: of the input.
        width: of the 3 × 3 convolutions; the output has four times as many with a bottleneck.
        stride: of the block.
        bottleneck: which F.
        norm: see ``overnight.nn.ghost_norm.batch_norm``.
    """

    def __init__(self, channels: int, width: int, stride: int, *, bottleneck: bool, norm: str) -> None:
        super().__init__()
        self.out_channels = 4 * width if bottleneck else width
        first, second = (1, 3) if bottleneck else (3, 3)
        self.conv1 = _convolution(channels, width, first, 1 if bottleneck else stride)
        self.bn1 = batch_norm(width, norm)
        self.conv2 = _convolution(width, width, second, stride if bottleneck else 1)
        self.bn2 = batch_norm(width, norm)
        if bottleneck:
            self.conv3 = _convolution(width, self.out_channels, 1, 1)
            self.bn3 = batch_norm(self.out_channels, norm)
        self.bottleneck = bottleneck
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != self.out_channels:
            projection = _convolution(channels, self.out_channels, 1, stride)
            self.downsample = nn.Sequential(projection, batch_norm(self.out_channels, norm))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x_BCHW)))
        out = self.bn2(self.conv2(out))
        if self.bottleneck:
            out = self.bn3(self.conv3(torch.relu(out)))
        return torch.relu(out + (x_BCHW if self.downsample is None else self.downsample(x_BCHW)))

    @property
    def last_norm(self) -> nn.Module:
        """The norm before the sum."""
        return self.bn3 if self.bottleneck else self.bn2


class ResNet(nn.Module):
    """Stem → stages of residual blocks, each after the first at half the resolution → mean over pixels → logits.

    The defaults are ResNet-50 v1.5: 25,557,032 parameters with 1,000 classes. ``layers=(3, 3, 3), width=16,
    bottleneck=False, stem="cifar"`` is the paper's ResNet-20 for 32 × 32 (§4.2), with projections in the place of
    zero-padded shortcuts: 272,474 with 10 classes.

    Args:
        layers: blocks of each stage.
        classes: K.
        width: of the first stage; each stage has twice that of the one before.
        bottleneck: blocks of 1 × 1, 3 × 3, 1 × 1, or of two 3 × 3.
        stem: ``imagenet``: 7 × 7 with stride 2, then 3 × 3 max pooling with stride 2. ``cifar``: 3 × 3.
        norm: ``batch``, ``ghost:V`` or ``sync`` (see ``overnight.nn.ghost_norm.batch_norm``).
        zero_last_norm: the last norm of each block starts at zero, so that each is the identity at first (Goyal et al.
            2017).
        channels: C, 3 for colour.
        mean, std: of each channel in [0, 1], by which pixels are normalised.

    Raises:
        UserError: for settings that cannot work, and in a call for images of other channels.

    Example:
        >>> model = ResNet((1, 1, 1), 10, width=8, bottleneck=False, stem="cifar")
        >>> model(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        classes: int = 1000,
        *,
        width: int = 64,
        bottleneck: bool = True,
        stem: str = "imagenet",
        norm: str = "batch",
        zero_last_norm: bool = True,
        channels: int = 3,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        if not layers or min(layers) < 1 or width < 1 or classes < 1:
            raise UserError(f"layers={tuple(layers)}, width={width}, classes={classes} cannot work.", "Take 1 or more.")
        if stem not in STEMS:
            raise UserError(f"There is no stem {stem!r}.", f"Choose one of {', '.join(STEMS)}.")
        self.pixels = Pixels(channels, mean, std)
        self.conv1 = _convolution(channels, width, 7, 2) if stem == "imagenet" else _convolution(channels, width, 3, 1)
        self.bn1 = batch_norm(width, norm)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        now, blocks = width, []
        for stage, count in enumerate(layers):
            row = []
            for place in range(count):
                stride = 2 if stage and not place else 1
                row.append(Block(now, width << stage, stride, bottleneck=bottleneck, norm=norm))
                now = row[-1].out_channels
            blocks += row
            self.add_module(f"layer{stage + 1}", nn.Sequential(*row))
        self.stages = len(layers)
        self.fc = nn.Linear(now, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.fc.weight, std=0.01)  # Goyal et al. 2017, §5.1
        nn.init.zeros_(self.fc.bias)
        for block in blocks if zero_last_norm else ():
            nn.init.zeros_(block.last_norm.weight)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image_BHWC: Tensor) -> Tensor:
        """Logits [B, K] of images [B, H, W, C], or [B, H, W] with one channel; uint8 or floating point in [0, 255]."""
        x_BCHW = self.pixels(image_BHWC, self.fc.weight.dtype)
        x_BCHW = self.maxpool(torch.relu(self.bn1(self.conv1(x_BCHW))))
        for stage in range(self.stages):
            x_BCHW = self.get_submodule(f"layer{stage + 1}")(x_BCHW)
        logits_BK: Tensor = self.fc(x_BCHW.mean((2, 3)))
        return logits_BK


def _convolution(channels: int, width: int, kernel: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False)
