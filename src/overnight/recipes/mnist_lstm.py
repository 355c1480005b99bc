"""MNIST-LSTM: the first of the four applications of You et al. 2019, from batch 128 to 8,192 and all 60,000."""

import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from overnight.errors import UserError
from overnight.recipes.dial import adapted, check_up, near, scaled

if TYPE_CHECKING:
    from overnight.train.run import Run


@dataclass(frozen=True)
class Tuned:
    """An optimizer's baseline at batch 128 (docs/mnist_lstm.md says how it was chosen).

    Attributes:
        optimizer: its import path.
        lr: peak rate.
        settings: its other arguments.
        weight_decay: of matrices; None makes no groups.
        betas: of Adam's family.
    """

    optimizer: str
    lr: float
    settings: dict[str, Any] = field(default_factory=dict)
    weight_decay: float | None = None
    betas: tuple[float, float] | None = None


BATCH = 128
EPOCHS = 25.0
WARMUP_STEPS = 64
MAX_NORM = 1.0
TUNED = {
    "momentum": Tuned("torch.optim.SGD", 0.4, {"momentum": 0.9}),
    # no groups: biases that are not adapted would see the whole rate, with which LARS diverges
    "lars": Tuned("overnight.optim.LARS", 5.0, {"momentum": 0.9}),
    "lamb": Tuned("overnight.optim.LAMB", 0.01, weight_decay=1e-4, betas=(0.9, 0.999)),
}


def mnist_lstm(
    data: Path,
    batch_size: int = BATCH,
    micro_batch_size: int | None = None,
    lr: float | None = None,
    rule: Literal["none", "linear", "sqrt", "legw", "adam_sde", "date"] = "legw",
    optimizer: str = "momentum",
    epochs: float | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    schedule: Literal["polynomial", "linear", "cosine", "constant"] = "polynomial",
    warmup_steps: int | None = None,
    label_smoothing: float = 0.0,
    max_norm: float = MAX_NORM,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    valid: int = 0,
    evaluations: int | None = None,
    seed: int = 0,
) -> "Run":
    """Train an LSTM of 128 units that reads the digits of MNIST row by row.

    You et al. 2019, "Large-Batch Training for LSTM and Beyond" (arXiv 1901.08256): batch 128 to 8,192 in 25 epochs,
    98.7 % of the test images. docs/mnist_lstm.md says how the baselines at batch 128 were tuned, docs/results.md what
    came of larger batches.

    Args:
        data: folder with the four idx files of MNIST, gzipped or not.
        batch_size: images of one update over all ranks: the dial, up to 60,000.
        micro_batch_size: images of one forward and backward on one rank; less memory, same result.
        lr: peak rate; given, no rule touches it.
        rule: how rate and warm-up follow the batch (docs/scaling.md); date measures as it goes.
        optimizer: momentum, lars, lamb (each with its tuned baseline), or the import path of any torch.optim.Optimizer;
            that one with --lr.
        epochs: budget in passes over the training images (25, if no budget is given).
        steps: budget in updates.
        minutes: budget in minutes of wall-clock time.
        schedule: how the rate falls after the warm-up.
        warmup_steps: updates over which the rate rises, whatever the rule says.
        label_smoothing: share of the target that is spread over all classes.
        max_norm: clip the gradient to this L2 norm; 0 for never.
        precision: auto takes bf16 where the device has it.
        valid: evaluate on so many images, held out of the training ones, and not on the test images: for tuning.
        evaluations: held-out evaluations, evenly over the run; one an epoch unless given.
        seed: of weights and order.
    """
    from overnight import schedule as schedules
    from overnight.data.images.batches import image_batches
    from overnight.data.images.memory import read_images
    from overnight.evaluate.images import heldout_images, image_baselines
    from overnight.models.row_lstm import RowLSTM
    from overnight.optim.groups import param_groups
    from overnight.scaling import Hyperparameters
    from overnight.tasks.classification import ClassificationTask
    from overnight.train.components import import_object
    from overnight.train.run import Run

    tuned = _tuned(optimizer, lr)
    if rule == "adam_sde" and tuned.betas is None:
        raise UserError("The rule adam_sde is for Adam's family.", "Take --optimizer lamb, or another --rule.")
    if warmup_steps is not None and warmup_steps < 0:
        raise UserError(f"--warmup-steps {warmup_steps} cannot work.", "Take 0 for none, or more.")
    budget: dict[str, Any] = {"epochs": epochs, "steps": steps, "minutes": minutes}
    if all(value is None for value in budget.values()):
        budget["epochs"] = EPOCHS
    passes = budget["epochs"]
    baseline = Hyperparameters(
        lr=tuned.lr,
        global_batch_size=BATCH,
        warmup_samples=WARMUP_STEPS * BATCH,
        betas=tuned.betas,
        max_norm=MAX_NORM,
    )
    found, notes = scaled(baseline, batch_size, rule, lr)
    warmup = found.warmup_samples if warmup_steps is None else warmup_steps * batch_size
    total = math.inf if minutes is not None else (steps or 0) * batch_size
    if passes is not None:
        total = passes * len(read_images(data, "train", valid=valid))
    if rule == "date":
        check_up(batch_size, BATCH)  # and the length of its warm-up is its own
    elif warmup > total:
        said, remedy = "", "Take a longer run, a smaller batch, another --rule or fewer --warmup-steps."
        if rule == "legw" and lr is None and warmup_steps is None and batch_size > BATCH:
            steps_there = math.ceil(total / batch_size)
            said = f" LEGW keeps its {WARMUP_STEPS} steps whatever the batch, and this run has {steps_there:,}."
            fits = f"a batch of at most {total // WARMUP_STEPS:,.0f}"
            remedy = f"Take {fits}, --rule date (which cuts them to 30 % of the run), a longer run or --warmup-steps."
        raise UserError(f"A warm-up of {warmup:,.0f} images is longer than the run of {total:,.0f}.{said}", remedy)
    settings = dict(tuned.settings) if found.betas is None else {**tuned.settings, "betas": found.betas}
    corpus = str(data.resolve())
    held_out: dict[str, Any] = {"corpus": corpus, "split": "valid" if valid else "test", "valid": valid}
    run = Run(
        recipe="mnist-lstm",
        model=partial(RowLSTM),
        task=partial(ClassificationTask, label_smoothing=label_smoothing),
        data=partial(image_batches, corpus=corpus, valid=valid),
        optimizer=partial(import_object(tuned.optimizer), lr=found.lr, **settings),
        param_groups=None if tuned.weight_decay is None else partial(param_groups, weight_decay=tuned.weight_decay),
        schedule=_schedule(getattr(schedules, schedule), warmup),
        global_batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        precision=precision,
        max_norm=max_norm or None,
        seed=seed,
        evaluate=partial(heldout_images, **held_out),
        evaluations=evaluations if evaluations is not None else max(1, round(passes or 6)),
        baselines=partial(image_baselines, **held_out),
        notes=tuple(notes),
        **budget,
    )
    return adapted(run, baseline, rule, lr, warmup_steps)


def _tuned(optimizer: str, lr: float | None) -> Tuned:
    if optimizer in TUNED:
        return TUNED[optimizer]
    if "." not in optimizer:
        remedy = f"{near(optimizer, TUNED)} Or give an import path such as torch.optim.RMSprop."
        raise UserError(f"There is no optimizer {optimizer!r}.", remedy)
    if lr is None:
        raise UserError(f"There is no tuned rate of {optimizer}.", "Give one with --lr.")
    return Tuned(optimizer, lr)


def _schedule(curve: Any, warmup_samples: float) -> "partial[Any]":
    power = {"power": 1.0} if curve.__name__ == "polynomial" else {}
    return partial(curve, warmup_samples=warmup_samples, **power)
