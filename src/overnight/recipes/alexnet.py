"""AlexNet and AlexNet-BN on ImageNet in batches of 512 to 16,384, and small ones on 32 × 32 images."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from overnight.recipes.image_presets import ALEXNETS
from overnight.recipes.images import Curve, Rule, image_run

if TYPE_CHECKING:
    from overnight.train.run import Run


def alexnet(
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
    """Train AlexNet or AlexNet-BN on labelled images: as published on photographs, small ones on 32 × 32.

    Krizhevsky et al. 2012; You et al. 2017 (LARS, arXiv 1708.03888): batch 8,192 at the accuracy of batch 512.
    ``--preset imagenet --ladder lars --batch-size 8192`` is that run.

    Args:
        data: folder with train and test: class folders of image files, tars of them, CIFAR's binary files, or MNIST's
            (docs/images.md).
        preset: imagenet, imagenet-bn, cifar-small or cifar-small-bn; overnight list says more.
        batch_size: images of one update over all ranks: the dial; the baseline's unless given.
        micro_batch_size: images of one forward and backward on one rank; less memory, and the same result with
            --norm ghost:V.
        ladder: take the rate from a published table: lars, of imagenet; it has rows for some batches only.
        optimizer: lars, momentum, and lamb or adamw on cifar (each with its baseline), or the import path of any
            torch.optim.Optimizer; that one with --lr.
        lr: peak rate; given, no rule touches it.
        rule: how rate and warm-up follow the batch (docs/scaling.md).
        norm: local (response), none, batch, ghost:V (statistics over V images each) or sync (over all ranks).
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
    return image_run(
        "alexnet", "overnight.models.alexnet.AlexNet", ALEXNETS, layers=("model.classifier.*",), **settings
    )
