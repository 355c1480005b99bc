"""What the recipes of image classifiers share: from a preset and a batch to a run."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from overnight.errors import UserError
from overnight.recipes.dial import near, scaled
from overnight.recipes.image_ladders import Ladder, Rung
from overnight.recipes.image_presets import ImagePreset, Tuned
from overnight.recipes.parallel import whole_parallel

if TYPE_CHECKING:
    from overnight.train.run import Run

Rule = Literal["none", "linear", "sqrt", "legw", "adam_sde"]
Curve = Literal["polynomial", "cosine", "constant"]
GREY = {"channels": 1, "mean": (0.1307,), "std": (0.3081,)}
"""Of MNIST's digits, which are not mirrored either."""


def image_run(
    recipe: str,
    network: str,
    presets: Mapping[str, ImagePreset],
    *,
    data: Path,
    preset: str,
    batch_size: int | None,
    micro_batch_size: int | None,
    ladder: str | None,
    optimizer: str | None,
    lr: float | None,
    rule: Rule,
    norm: str | None,
    epochs: float | None,
    steps: int | None,
    minutes: float | None,
    schedule: Curve,
    warmup_epochs: float | None,
    label_smoothing: float | None,
    max_norm: float | None,
    ema_samples: float | None,
    augment: bool,
    bad_images: Literal["stop", "skip"],
    precision: str,
    parallel: str | None,
    valid: int,
    evaluations: int | None,
    seed: int,
    layers: Sequence[str] = (),
) -> "Run":
    """A run of one of the presets; the arguments are those of ``overnight.recipes.resnet.resnet``.

    Args:
        recipe: its name.
        network: import path of the model.
        presets: by name.
        data, preset, batch_size, micro_batch_size, ladder, optimizer, lr, rule, norm, epochs, steps, minutes, schedule,
            warmup_epochs, label_smoothing, max_norm, ema_samples, augment, bad_images, precision, parallel, valid,
            evaluations, seed: the recipe's.
        layers: that fsdp puts together one at a time.
    """
    from overnight import schedule as schedules
    from overnight.data.images.batches import image_batches
    from overnight.data.images.sources import open_images, pixels_of
    from overnight.evaluate.images import heldout_images, image_baselines
    from overnight.optim.norm_groups import norm_groups
    from overnight.tasks.classification import ClassificationTask
    from overnight.train.average import WeightAverage
    from overnight.train.components import import_object
    from overnight.train.run import Run

    together = whole_parallel(parallel, layers)
    if preset not in presets:
        raise UserError(f"There is no preset {preset!r}.", near(preset, presets))
    base = presets[preset]
    tuned, rung, length = _baseline(base, batch_size, ladder, optimizer, lr)
    batch = tuned.batch if batch_size is None else batch_size
    if batch < 1:
        raise UserError(f"A batch of {batch} cannot work.", "Take at least 1.")
    kind = pixels_of(data)
    part: dict[str, Any] = {"valid": valid, "bad_images": bad_images}
    if base.augment == "resized" and kind is not None:
        raise UserError(
            f"{data} holds images of {kind[0]} × {kind[0]}; the preset {preset} takes files of photographs.",
            f"Take --preset {next(name for name in presets if name.startswith('cifar'))}.",
        )
    size, grey = (base.size, False) if kind is None else (kind[0], kind[1] == 1)
    part |= {"size": size}
    images = open_images(data, "train", in_files=base.augment == "resized", **part)
    if batch > len(images):
        said = f"There are {len(images):,} images, too few for a batch of {batch:,}."
        raise UserError(said, f"Take --batch-size {len(images)} or less.")
    virtual = int(norm.partition(":")[2]) if norm is not None and re.fullmatch("ghost:[1-9][0-9]*", norm) else 1
    if batch % virtual:
        nearest = max(1, batch // virtual) * virtual
        raise UserError(
            f"A batch of {batch} is no multiple of the virtual batch of {virtual}.", f"Take --batch-size {nearest}."
        )
    settings, notes, warmup = _optimizer(tuned, rung, batch, rule, lr, warmup_epochs, len(images))
    budget: dict[str, Any] = {"epochs": epochs, "steps": steps, "minutes": minutes}
    if all(value is None for value in budget.values()):
        budget["epochs"] = length
    total = math.inf if minutes is not None else (steps or 0) * batch
    if budget["epochs"] is not None:
        total = budget["epochs"] * len(images)
    if warmup > total:
        raise UserError(
            f"A warm-up of {warmup:,.0f} images is longer than the run of {total:,.0f}.",
            "Take a longer run, a smaller batch, another --rule or fewer --warmup-epochs.",
        )
    if ema_samples is not None and not ema_samples > 0:
        raise UserError(f"--ema-samples {ema_samples:g} is no half-life.", "Take a number of images above 0.")
    decay = tuned.weight_decay if rung is None or rung.weight_decay is None else rung.weight_decay
    plain = tuned.plain_lr
    if plain is not None:  # it follows the rate
        plain = plain * settings["lr"] / tuned.lr
    model = {**base.model, **({"norm": norm} if norm is not None else {}), **(GREY if grey else {})}
    if network.endswith("AlexNet"):
        model |= {"image_size": size}
    held_out: dict[str, Any] = {"corpus": str(data.resolve()), "split": "valid" if valid else "test", **part}
    held_out |= {"margin": base.margin} if base.margin != 1.0 else {}
    curve: dict[str, Any] = {"warmup_samples": warmup}
    curve |= {"power": tuned.power} if schedule == "polynomial" else {}
    clip = tuned.max_norm if max_norm is None else max_norm or None
    return Run(
        recipe=recipe,
        model=partial(import_object(network), classes=images.classes, **model),
        task=partial(
            ClassificationTask, label_smoothing=base.smoothing if label_smoothing is None else label_smoothing
        ),
        data=partial(
            image_batches,
            corpus=str(data.resolve()),
            augment=base.augment if augment else "none",
            flip=not grey,
            **part,
        ),
        optimizer=partial(import_object(tuned.optimizer), **settings),
        param_groups=partial(norm_groups, weight_decay=decay, plain_lr=plain),
        schedule=partial(getattr(schedules, schedule), **curve),
        global_batch_size=batch,
        micro_batch_size=micro_batch_size,
        precision=precision,
        max_norm=clip,
        seed=seed,
        parallel=together,
        evaluate=partial(heldout_images, **held_out),
        evaluations=evaluations if evaluations is not None else max(1, round(budget["epochs"] or 6)),
        baselines=partial(image_baselines, **held_out),
        ema=None if ema_samples is None else partial(WeightAverage, half_life_samples=ema_samples, buffers=True),
        notes=tuple(notes),
        **budget,
    )


def _baseline(
    base: ImagePreset, batch: int | None, ladder: str | None, optimizer: str | None, lr: float | None
) -> tuple[Tuned, Rung | None, float]:
    """The optimizer's baseline, the rung of a ladder, and the epochs."""
    if ladder is None:
        return _tuned(base, optimizer or next(iter(base.tuned)), lr), None, base.epochs
    if ladder not in base.ladders:
        remedy = near(ladder, base.ladders) if base.ladders else "Leave it out; --rule derives the rate."
        raise UserError(f"There is no ladder {ladder!r} in this preset.", remedy)
    found = base.ladders[ladder]
    if optimizer not in (None, found.optimizer):
        raise UserError(f"The ladder {ladder} is {found.optimizer}'s.", "Leave out --optimizer.")
    rung = next((rung for rung in found.rungs if rung.batch == batch), None)
    if rung is None:
        batches = ", ".join(str(rung.batch) for rung in found.rungs)
        raise UserError(f"The ladder {ladder} has no batch {batch}.", f"Take --batch-size {batches}.")
    return _laddered(base.tuned[found.optimizer], found), rung, rung.epochs or found.epochs


def _laddered(tuned: Tuned, ladder: Ladder) -> Tuned:
    return replace(tuned, settings={**tuned.settings, **ladder.settings})


def _tuned(base: ImagePreset, optimizer: str, lr: float | None) -> Tuned:
    if optimizer in base.tuned:
        return base.tuned[optimizer]
    if "." not in optimizer:
        remedy = f"{near(optimizer, base.tuned)} Or give an import path such as torch.optim.RMSprop."
        raise UserError(f"There is no optimizer {optimizer!r} in this preset.", remedy)
    if lr is None:
        raise UserError(f"There is no tuned rate of {optimizer}.", "Give one with --lr.")
    first = next(iter(base.tuned.values()))
    return Tuned(optimizer, first.batch, lr, first.warmup_epochs, first.weight_decay)


def _optimizer(
    tuned: Tuned,
    rung: Rung | None,
    batch: int,
    rule: Rule,
    lr: float | None,
    warmup_epochs: float | None,
    images: int,
) -> tuple[dict[str, Any], list[str], float]:
    """The optimizer's arguments, what there is to say of them, and the warm-up in images."""
    from overnight.scaling import Hyperparameters

    if warmup_epochs is not None and not 0 <= warmup_epochs < math.inf:
        raise UserError(f"--warmup-epochs {warmup_epochs:g} cannot work.", "Take 0 for none, or more.")
    if rung is not None:
        epochs = rung.warmup_epochs if warmup_epochs is None else warmup_epochs
        found = {"lr": rung.lr if lr is None else lr, **tuned.settings, **rung.settings}
        found |= {"betas": tuned.betas} if tuned.betas is not None else {}
        return found, [], epochs * images
    if rule == "adam_sde" and tuned.betas is None:
        raise UserError("The rule adam_sde is for Adam's family.", "Take --optimizer lamb, or another --rule.")
    baseline = Hyperparameters(
        lr=tuned.lr, global_batch_size=tuned.batch, warmup_samples=tuned.warmup_epochs * images, betas=tuned.betas
    )
    derived, notes = scaled(baseline, batch, rule, lr)
    warmup = derived.warmup_samples if warmup_epochs is None else warmup_epochs * images
    found = {"lr": derived.lr, **tuned.settings}
    found |= {"betas": derived.betas} if derived.betas is not None else {}
    return found, notes, warmup
