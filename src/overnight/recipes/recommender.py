"""A recommender of your own ratings: the deep autoencoder of Kuchaiev and Ginsburg 2017."""

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from overnight.errors import UserError
from overnight.recipes.dial import near, scaled

if TYPE_CHECKING:
    from overnight.train.run import Run

BATCH = 128
EPOCHS = 60.0
LR = {"momentum": 0.005, "adam": 0.001, "lamb": 0.005}
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "momentum": ("torch.optim.SGD", {"momentum": 0.9}),
    "adam": ("torch.optim.AdamW", {"weight_decay": 0.0}),
    "lamb": ("overnight.optim.LAMB", {"weight_decay": 0.0}),
}


def recommender(
    data: Path,
    test: Path | None = None,
    valid: Path | None = None,
    split: Literal["random", "time", "leave-last"] = "random",
    held_out: float | None = None,
    valid_share: float = 0.0,
    columns: tuple[str, ...] = (),
    duplicates: Literal["error", "last", "mean"] = "error",
    scale: tuple[float, float] | None = None,
    hidden: tuple[int, ...] = (512, 512, 1024),
    activation: str = "selu",
    last_activation: bool = True,
    dropout: float = 0.8,
    tied: bool = False,
    biases: bool = False,
    hide: float = 0.0,
    score: Literal["all", "hidden"] = "all",
    refeeding: Literal["none", "alternating", "joint"] = "none",
    repetitions: int = 1,
    dense_items: int | None = None,
    batch_size: int = BATCH,
    micro_batch_size: int | None = None,
    lr: float | None = None,
    rule: Literal["none", "linear", "sqrt", "legw"] = "sqrt",
    optimizer: str = "momentum",
    weight_decay: float = 0.0,
    epochs: float | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    schedule: Literal["polynomial", "linear", "cosine", "constant"] = "cosine",
    max_norm: float = 0.0,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    evaluations: int | None = None,
    seed: int = 0,
) -> "Run":
    """Train a deep autoencoder that says what every user would give every item.

    Kuchaiev and Ginsburg 2017, "Training Deep AutoEncoders for Collaborative Filtering" (arXiv 1708.01715). The data may
    be csv, tsv or parquet, a MovieLens or Netflix Prize folder, or a folder that overnight prepare --ratings made.

    Args:
        data: file or folder of ratings.
        test: file of the test ratings; without it some of the data are held out.
        valid: file of the validation ratings.
        split: what is held out: ratings by a coin, those rated last, or each user's last.
        held_out: share that is tested on (0.1), or with leave-last how many of each user's ratings (1).
        valid_share: share, or number, that is held out beside; then evaluations are on it and not on the test ratings.
        columns: names of the columns of user, item, rating and time, where they cannot be guessed.
        duplicates: what to do where a user rated an item twice: stop, keep the last, or take the mean.
        scale: lowest and highest rating there may be.
        hidden: widths of the encoder's layers; the decoder mirrors them.
        activation: selu, elu, lrelu, relu, relu6, sigmoid, tanh, swish or none.
        last_activation: whether the output has one.
        dropout: on the code.
        tied: the decoder shares the encoder's weights.
        biases: learn biases of items and derive those of users; the net learns what is left.
        hide: hide each rating from the input with this probability.
        score: train on all ratings, or on the hidden ones only.
        refeeding: train on the model's own dense output too, in steps of their own or in the same step.
        repetitions: passes of it for each batch.
        dense_items: so many items, drawn anew each time, take part in it; all unless given.
        batch_size: users of one update over all ranks: the dial.
        micro_batch_size: users of one forward and backward on one rank; less memory, same result.
        lr: peak rate; given, no rule touches it.
        rule: how the rate follows the batch (docs/scaling.md).
        optimizer: momentum, adam or lamb, or the import path of any torch.optim.Optimizer; that one with --lr.
        weight_decay: of the optimizers that are named here.
        epochs: budget in passes over the users (60, if no budget is given).
        steps: budget in updates; those of dense re-feeding count.
        minutes: budget in minutes of wall-clock time.
        schedule: how the rate falls.
        max_norm: clip the gradient to this L2 norm; 0 for never.
        precision: auto takes bf16 where the device has it.
        evaluations: held-out evaluations, evenly over the run (10).
        seed: of weights, order, splits and what is hidden.
    """
    from overnight import schedule as schedules
    from overnight.data.ratings.batches import rating_batches
    from overnight.data.ratings.loading import load_ratings
    from overnight.data.ratings.settings import RatingSettings
    from overnight.evaluate.ratings import heldout_ratings, mean_baseline
    from overnight.models.autoencoder import RatingAutoencoder
    from overnight.scaling import Hyperparameters
    from overnight.tasks.recommendation import RecommendationTask
    from overnight.train.components import import_object
    from overnight.train.run import Run

    path, settings_of = _optimizer(optimizer, lr, weight_decay)
    budget: dict[str, Any] = {"epochs": epochs, "steps": steps, "minutes": minutes}
    if all(value is None for value in budget.values()):
        budget["epochs"] = EPOCHS
    share = held_out if held_out is not None else (1 if split == "leave-last" else 0.1)
    kept = partial(
        RatingSettings, columns=columns, duplicates=duplicates, scale=scale, split=split, valid=valid_share,
        test=share, seed=seed,
    )  # fmt: skip
    source: dict[str, Any] = {
        "corpus": str(data.resolve()),
        "settings": kept,
        "valid": str(valid.resolve()) if valid else "",
        "test": str(test.resolve()) if test else "",
    }
    splits = load_ratings(source["corpus"], kept(), valid=source["valid"], test=source["test"])
    scored = "valid" if len(splits.valid) else "test"
    found, notes = scaled(Hyperparameters(lr=LR.get(optimizer, 1.0), global_batch_size=BATCH), batch_size, rule, lr)
    notes += [_told(name, splits) for name in ("valid", "test") if len(splits.split(name))]
    again = {"repetitions": repetitions} if refeeding == "alternating" else {}
    return Run(
        recipe="recommender",
        model=partial(
            RatingAutoencoder,
            items=len(splits.items),
            hidden=hidden,
            dropout=dropout,
            activation=activation,
            last_activation=last_activation,
            tied=tied,
            biases=biases,
            mean=splits.train.mean if biases else 0.0,
        ),
        task=partial(
            RecommendationTask, refeeding=refeeding, repetitions=repetitions, score=score, dense_items=dense_items
        ),
        data=partial(rating_batches, **source, hide=hide, dense_items=dense_items, **again),
        optimizer=partial(import_object(path), lr=found.lr, **settings_of),
        schedule=partial(getattr(schedules, schedule)),
        global_batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        precision=precision,
        max_norm=max_norm or None,
        seed=seed,
        evaluate=partial(heldout_ratings, **source, split=scored) if len(splits.split(scored)) else None,
        evaluations=evaluations if evaluations is not None else 10,
        baselines=partial(mean_baseline, **source, split=scored) if len(splits.split(scored)) else None,
        notes=tuple(notes),
        **budget,
    )


def _optimizer(name: str, lr: float | None, weight_decay: float) -> tuple[str, dict[str, Any]]:
    if name in OPTIMIZERS:
        path, settings = OPTIMIZERS[name]
        return path, {**settings, "weight_decay": weight_decay}
    if "." not in name:
        remedy = f"{near(name, OPTIMIZERS)} Or give an import path such as torch.optim.RMSprop."
        raise UserError(f"There is no optimizer {name!r}.", remedy)
    if lr is None or not math.isfinite(lr):
        raise UserError(f"There is no tuned rate of {name}.", "Give one with --lr.")
    return name, {}


def _told(name: str, splits: Any) -> str:
    dropped = splits.dropped.get(name, {}).get("ratings", 0)
    cold = f"; {dropped:,} of users or items that training does not have are left out" if dropped else ""
    return f"{len(splits.split(name)):,} {name} ratings{cold}"
