"""ResNet and AlexNet: exact sizes, where the stride is, initial identity, and what they refuse."""

from typing import Any

import pytest
import torch
from torch import nn

from overnight.errors import UserError
from overnight.models.alexnet import AlexNet
from overnight.models.resnet import Block, ResNet
from overnight.recipes.image_presets import ALEXNETS, RESNETS

SMALL: dict[str, Any] = {"layers": (1, 1, 1), "classes": 10, "width": 8, "bottleneck": False, "stem": "cifar"}


def size(network: type[nn.Module], **settings: Any) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in network(**settings).parameters())


@pytest.mark.parametrize(
    ("network", "settings", "parameters"),
    [
        (ResNet, {}, 25_557_032),  # ResNet-50, 1,000 classes
        (ResNet, {"norm": "ghost:32"}, 25_557_032),
        (ResNet, {"layers": (3, 4, 23, 3)}, 44_549_160),  # ResNet-101
        (ResNet, {"layers": (2, 2, 2, 2), "bottleneck": False}, 11_689_512),  # ResNet-18
        (ResNet, {"classes": 10, **RESNETS["cifar"].model}, 272_474),
        (ResNet, {"classes": 10, **RESNETS["cifar-small"].model}, 78_042),
        (AlexNet, {}, 60_965_224),
        (AlexNet, {"groups": 1}, 62_378_344),
        (AlexNet, {"norm": "batch"}, 60_966_600),
        (AlexNet, {"classes": 10, "image_size": 32, **ALEXNETS["cifar-small"].model}, 462_026),
        (AlexNet, {"classes": 10, "image_size": 32, **ALEXNETS["cifar-small-bn"].model}, 462_378),
    ],
)
def test_parameters(network: type[nn.Module], settings: dict[str, Any], parameters: int) -> None:
    assert size(network, **settings) == parameters


def test_the_stride_is_in_the_three_by_three() -> None:
    """v1.5, on an input whose odd rows and columns a stride of the first 1 × 1 would not see."""
    block = Block(8, 4, 2, bottleneck=True, norm="batch")
    assert [layer.stride[0] for layer in (block.conv1, block.conv2, block.conv3)] == [1, 2, 1]
    x = torch.randn(2, 8, 8, 8, requires_grad=True)
    block.bn3.weight.data.fill_(1.0)  # type: ignore[union-attr, operator]
    y = block(x)
    assert y.shape == (2, 16, 4, 4)
    y.square().sum().backward()
    assert x.grad is not None
    assert bool((x.grad[:, :, 1::2, 1::2].abs().amax((0, 1)) > 0).all())


def test_it_starts_as_the_identity_and_all_is_trained() -> None:
    """Zero-initialised last norms: without their blocks' sums the network gives the same; all weights have gradients
    but those behind a zero."""
    torch.manual_seed(0)
    model = ResNet(**SMALL)
    images = torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8)
    block = model.get_submodule("layer1.0")
    assert isinstance(block, Block)
    x = torch.relu(torch.randn(4, 8, 5, 5))
    assert torch.equal(block(x), x)
    model(images).square().sum().backward()
    behind = [name for name, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert all(name.startswith(("layer1", "layer2", "layer3")) for name in behind)
    assert not any(name.endswith("bn2.weight") for name in behind)
    plain = ResNet(**SMALL, zero_last_norm=False)
    assert not torch.equal(plain.get_submodule("layer1.0")(x), x)


def test_memory_is_channels_last_and_stays_so() -> None:
    model = ResNet(**SMALL)
    last = torch.channels_last
    assert all(p.is_contiguous(memory_format=last) for p in model.parameters() if p.dim() == 4)
    x = model.pixels(torch.zeros(2, 32, 32, 3, dtype=torch.uint8), torch.float32)
    assert x.is_contiguous(memory_format=last)
    assert model.conv1(x).is_contiguous(memory_format=last)


def test_pixels_are_normalised_by_channel() -> None:
    model = ResNet(**SMALL, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    x = model.pixels(torch.full((1, 2, 2, 3), 255, dtype=torch.uint8), torch.float32)
    assert x[0, :, 0, 0].tolist() == [1.0, 1.0, 0.0]
    assert not any("pixels" in name for name in model.state_dict())


@pytest.mark.parametrize("norm", ["local", "none", "batch", "ghost:2"])
def test_alexnet_trains_with_any_norm(norm: str) -> None:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"widths": (8, 8, 8, 8, 8), "hidden": 16, "image_size": 32, "stem": (3, 1, 1)}
    model = AlexNet(10, norm=norm, groups=2, dropout=0.0, **settings)
    logits = model(torch.randint(0, 256, (4, 32, 32, 3), dtype=torch.uint8))
    assert logits.shape == (4, 10)
    logits.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


def test_refusals() -> None:
    with pytest.raises(UserError, match="There is no stem 'mnist'"):
        ResNet(**SMALL | {"stem": "mnist"})
    with pytest.raises(UserError, match="cannot work"):
        ResNet(**SMALL | {"layers": (1, 0)})
    with pytest.raises(UserError, match="do not fit 1 channels"):
        ResNet(**SMALL, channels=1)
    with pytest.raises(UserError, match="do not have 3 channels, last"):
        ResNet(**SMALL)(torch.zeros(2, 32, 32, dtype=torch.uint8))
    grey = ResNet(**SMALL, channels=1, mean=(0.1,), std=(0.3,))
    assert grey(torch.zeros(2, 28, 28, dtype=torch.uint8)).shape == (2, 10)
    with pytest.raises(UserError, match="five widths that the groups divide"):
        AlexNet(10, widths=(8, 7, 8, 8, 8))
    with pytest.raises(UserError, match="too small for this AlexNet"):
        AlexNet(10, image_size=32)
    with pytest.raises(UserError, match="are not 63 × 63"):
        AlexNet(10, image_size=63, widths=(2, 2, 2, 2, 2), hidden=2, stem=(3, 1, 1))(torch.zeros(1, 32, 32, 3))
