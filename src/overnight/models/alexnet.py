"""AlexNet of Krizhevsky et al. 2012, with local response normalisation or batch normalisation, and one for 32 × 32.

Shape suffixes: B images, C channels, H × W pixels, K classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.models.pixels import Pixels
from overnight.nn.ghost_norm import batch_norm

KERNELS = (5, 3, 3, 3)
"""Of the convolutions after the first."""
POOLED = (0, 1, 4)
"""Convolutions that are pooled."""
GROUPED = (1, 3, 4)
"""Convolutions whose two halves ran on two GPUs in 2012, and do not see each other's channels."""


class AlexNet(nn.Module):
    """Five convolutions, three of them pooled, then three dense layers.

    The defaults are the network as published, of two groups: 60,965,224 parameters with 1,000 classes at 227 × 227.
    ``groups=1`` has 62,378,344. ``norm="batch"`` is AlexNet-BN: a batch norm after each convolution, which then has no
    bias, in the place of the two local response norms: 60,966,600 with two groups.
    ``widths=(32, 64, 96, 96, 64), hidden=256, image_size=32, stem=(3, 1, 1), groups=1`` is a small one for 32 × 32.

    Args:
        classes: K.
        norm: ``local``: local response normalisation after the first two convolutions (n = 5, α = 1e-4, β = 0.75,
            k = 1). ``batch``, ``ghost:V`` or ``sync``: see ``overnight.nn.ghost_norm.batch_norm``. ``none``.
        groups: 2 as published, 1 for one GPU's.
        dropout: before the first two dense layers.
        widths: channels of the five convolutions.
        hidden: units of the first two dense layers.
        image_size: H and W.
        stem: kernel, stride and padding of the first convolution.
        channels: C, 3 for colour.
        mean, std: of each channel in [0, 1], by which pixels are normalised.

    Raises:
        UserError: for settings that cannot work, and in a call for images of another size.

    Example:
        >>> model = AlexNet(10, widths=(8, 8, 8, 8, 8), hidden=16, image_size=32, stem=(3, 1, 1), groups=1)
        >>> model(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        classes: int = 1000,
        *,
        norm: str = "local",
        groups: int = 2,
        dropout: float = 0.5,
        widths: Sequence[int] = (96, 256, 384, 384, 256),
        hidden: int = 4096,
        image_size: int = 227,
        stem: Sequence[int] = (11, 4, 0),
        channels: int = 3,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        if len(widths) != 5 or min(*widths, hidden, classes) < 1 or any(width % groups for width in widths):
            said = f"widths={tuple(widths)}, hidden={hidden}, classes={classes}, groups={groups}"
            raise UserError(f"{said} cannot work.", "Take five widths that the groups divide, and at least 1 of all.")
        self.pixels = Pixels(channels, mean, std)
        self.image_size = image_size
        kernel, stride, padding = stem
        side, before = (image_size + 2 * padding - kernel) // stride + 1, channels
        layers: list[nn.Module] = []
        normed = norm not in ("local", "none")
        for place, width in enumerate(widths):
            if place:
                kernel, stride, padding = KERNELS[place - 1], 1, KERNELS[place - 1] // 2
            parts = groups if place in GROUPED else 1
            layers.append(nn.Conv2d(before, width, kernel, stride, padding, groups=parts, bias=not normed))
            if normed:
                layers.append(batch_norm(width, norm))
            layers.append(nn.ReLU(inplace=True))
            if norm == "local" and place < 2:
                layers.append(nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0))
            if place in POOLED:
                layers.append(nn.MaxPool2d(3, 2))
                side = (side - 3) // 2 + 1
            before = width
        if side < 1:
            raise UserError(f"Images of {image_size} × {image_size} are too small for this AlexNet.", "Set model.stem.")
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(before * side * side, hidden), nn.ReLU(inplace=True),
            nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, classes),
        )  # fmt: skip
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier[-1].weight, std=0.01)  # type: ignore[arg-type]
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, image_BHWC: Tensor) -> Tensor:
        """Logits [B, K] of images [B, H, W, C], or [B, H, W] with one channel; uint8 or floating point in [0, 255]."""
        side = self.image_size
        if image_BHWC.shape[1:3] != (side, side):
            shape = tuple(image_BHWC.shape)
            raise UserError(f"Images of shape {shape} are not {side} × {side}.", "Set model.image_size and data.size.")
        x_BCHW = self.pixels(image_BHWC, next(self.classifier.parameters()).dtype)
        logits_BK: Tensor = self.classifier(self.features(x_BCHW).flatten(1))
        return logits_BK
