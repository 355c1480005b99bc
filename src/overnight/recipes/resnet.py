"""Residual networks: ResNet-50 v1.5 on ImageNet in batches of 512 to 67,840, and small ones on 32 × 32 images."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from overnight.recipes.image_presets import RESNETS
from overnight.recipes.images import Curve, Rule, image_run

if TYPE_CHECKING:
    from overnight.train.run import Run


def resnet(
    data: Path,
    preset: str = "cifar-small",
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    ladder: str | None = None,
    optimizer: str | None = None,
    lr: float | None = None,
    rule: Rule = "legw",
    norm: str | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    schedule: Curve = "polynomial",
    warmup_epochs: float | None = None,
    label_smoothing: float | None = None,
    max_norm: float | None = None,
    ema_samples: float | None = None,
    augment: bool = True,
    bad_images: Literal["stop", "skip"] = "stop",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    parallel: str | None = None,
    valid: int = 0,
    evaluations: int | None = None,
    seed: int = 0,
) -> "Run":
    """Train a ResNet on labelled images: ResNet-50 on photographs, small ones on 32 × 32.

    You et al. 2017 (LARS, arXiv 1708.03888), 2019 (LEGW, arXiv 1901.08256), 2020 (LAMB, arXiv 1904.00962): ResNet-50 on
    ImageNet at batch 32,768 in 90 epochs. ``--preset imagenet --ladder legw --batch-size 32768`` is that run.

    Args:
        data: folder with train and test: class folders of image files, tars of them, CIFAR's binary files, or MNIST's
            (docs/images.md).
        preset: imagenet (ResNet-50), cifar (ResNet-20) or cifar-small (ResNet-8); overnight list says more.
        batch_size: images of one update over all ranks: the dial; the baseline's unless given.
        micro_batch_size: images of one forward and backward on one rank; less memory, and the same result with
            --norm ghost:V.
        ladder: take rate, warm-up and length from a published table, of imagenet: legw, lamb, lars or mlperf; it has
            rows for some batches only.
        optimizer: lars, lamb, momentum, and adamw on cifar (each with its baseline), or the import path of any
            torch.optim.Optimizer; that one with --lr.
        lr: peak rate; given, no rule touches it.
        rule: how rate and warm-up follow the batch (docs/scaling.md).
        norm: batch, ghost:V (statistics over V images each) or sync (over all ranks).
        epochs: budget in passes over the training images (the preset's, if no budget is given).
        steps: budget in updates.
        minutes: budget in minutes of wall-clock time.
        schedule: how the rate falls after the warm-up.
        warmup_epochs: length of the warm-up, whatever the rule says.
        label_smoothing: share of the target that is spread over all classes; the preset's unless given.
        max_norm: clip the gradient to this L2 norm; 0 for never; the baseline's unless given.
        ema_samples: evaluate an average of the weights with a half-life of so many images.
        augment: crop and mirror the training images.
        bad_images: images that cannot be decoded: stop, or skip them and say how many.
        precision: auto takes bf16 where the device has it.
        parallel: how ranks train together: ddp, or fsdp, which shares the weights out (docs/parallel.md); plain DDP
            unless given.
        valid: evaluate on so many images, held out of the training ones, and not on the test images: for tuning.
        evaluations: held-out evaluations, evenly over the run; one an epoch unless given.
        seed: of weights, order and augmentation.
    """
    settings = locals()
    return image_run("resnet", "overnight.models.resnet.ResNet", RESNETS, layers=("model.layer*.*",), **settings)
