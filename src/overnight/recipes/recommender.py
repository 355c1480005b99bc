"""A recommender of your own ratings: the deep autoencoder of Kuchaiev and Ginsburg 2017."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from overnight.errors import UserError
from overnight.recipes.dial import near, scaled

if TYPE_CHECKING:
    from overnight.train.run import Run


@dataclass(frozen=True)
class Preset:
    """A net and how it is trained, as far as the command line does not say otherwise."""

    hidden: tuple[int, ...]
    dropout: float
    batch_size: int
    optimizer: str
    lr: float
    epochs: float
    biases: bool = False
    normalized: bool = False
    implicit: bool = False
    bounded: bool = False
    last_activation: bool = True
    hide: float = 0.0
    score: str = "all"
    refeeding: str = "none"
    weight_decay: float = 0.0
    schedule: str = "cosine"
    about: str = ""


PRESETS = {
    # chosen on a tenth of the training ratings of ML-100K's u1
    "small": Preset(
        hidden=(512,),
        dropout=0.5,
        batch_size=32,
        optimizer="adam",
        lr=0.001,
        epochs=25,
        biases=True,
        normalized=True,
        implicit=True,
        bounded=True,
        last_activation=False,
        hide=0.3,
        score="hidden",
        weight_decay=1.0,
        about="biases and one wide layer that finds hidden ratings; for up to some million ratings",
    ),
    # the paper's for the whole Netflix Prize, with its rate for dense re-feeding; its rate fell in five halvings
    "netflix": Preset(
        hidden=(512, 512, 1024),
        dropout=0.8,
        batch_size=128,
        optimizer="momentum",
        lr=0.005,
        epochs=100,
        refeeding="alternating",
        about="the paper's for the Netflix Prize, with dense re-feeding",
    ),
}
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "momentum": ("torch.optim.SGD", {"momentum": 0.9}),
    "adam": ("torch.optim.AdamW", {}),
    "lamb": ("overnight.optim.LAMB", {}),
}


def recommender(
    data: Path,
    preset: Literal["small", "netflix"] = "small",
    test: Path | None = None,
    valid: Path | None = None,
    split: Literal["random", "time", "leave-last"] = "random",
    held_out: float | None = None,
    valid_share: float = 0.0,
    columns: tuple[str, ...] = (),
    duplicates: Literal["error", "last", "mean"] = "error",
    scale: tuple[float, float] | None = None,
    by: Literal["user", "item"] = "user",
    hidden: tuple[int, ...] | None = None,
    activation: str = "selu",
    last_activation: bool | None = None,
    dropout: float | None = None,
    tied: bool = False,
    biases: bool | None = None,
    normalized: bool | None = None,
    implicit: bool | None = None,
    bounded: bool | None = None,
    hide: float | None = None,
    score: Literal["all", "hidden"] | None = None,
    refeeding: Literal["none", "alternating", "joint"] | None = None,
    repetitions: int = 1,
    dense_items: int | None = None,
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    lr: float | None = None,
    rule: Literal["none", "linear", "sqrt", "legw"] = "sqrt",
    optimizer: str | None = None,
    weight_decay: float | None = None,
    epochs: float | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    schedule: Literal["polynomial", "linear", "cosine", "constant"] | None = None,
    max_norm: float = 0.0,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    evaluations: int | None = None,
    seed: int = 0,
) -> "Run":
    """Train a deep autoencoder that says what every user would give every item.

    Kuchaiev and Ginsburg 2017, "Training Deep AutoEncoders for Collaborative Filtering" (arXiv 1708.01715). The data
    may be csv, tsv or parquet, a MovieLens or Netflix Prize folder, or a folder that overnight prepare --ratings made.

    Args:
        data: file or folder of ratings.
        preset: small: one wide layer around learned biases, trained to find ratings that are hidden from it, which does
            well on up to some million ratings; netflix: the paper's best net, with dense re-feeding.
        test: file of the test ratings; without it some of the data are held out.
        valid: file of the validation ratings.
        split: what is held out: ratings by a coin, those rated last, or each user's last.
        held_out: share that is tested on (0.1), or with leave-last how many of each user's ratings (1).
        valid_share: share, or number, that is held out beside; then evaluations are on it and not on the test ratings.
        columns: names of the columns of user, item, rating and time, where they cannot be guessed.
        duplicates: what to do where a user rated an item twice: stop, keep the last, or take the mean.
        scale: lowest and highest rating there may be.
        by: what a row is: a user's ratings, so that new users are answered without training, or an item's, which often
            errs less.
        hidden: widths of the encoder's layers; the decoder mirrors them.
        activation: selu, elu, lrelu, relu, relu6, sigmoid, tanh, swish or none.
        last_activation: whether the output has one.
        dropout: on the code.
        tied: the decoder shares the encoder's weights.
        biases: learn biases of items, from damped ones on, and derive those of users; the net learns what is left.
        normalized: divide a user's ratings by the root of their number.
        implicit: the net also sees which items were rated, whatever the rating.
        bounded: no answer is below the lowest training rating, or that of scale, or above the highest.
        hide: hide each rating from the input with this probability.
        score: train on all ratings, or on the hidden ones only.
        refeeding: train on the model's own dense output too, in steps of their own or in the same step.
        repetitions: passes of it for each batch.
        dense_items: so many items, drawn anew each time, take part in it; all unless given.
        batch_size: users of one update over all ranks: the dial.
        micro_batch_size: users of one forward and backward on one rank; less memory, same result.
        lr: peak rate; given, no rule touches it. Another optimizer than the preset's needs one.
        rule: how the rate follows the batch (docs/scaling.md).
        optimizer: momentum, adam or lamb, or the import path of any torch.optim.Optimizer.
        weight_decay: of the optimizer; biases (and μ) do not decay.
        epochs: budget in passes over the users (the preset's, if no budget is given).
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
    from overnight.evaluate.ratings import damped_item_biases, heldout_ratings, rating_baselines
    from overnight.models.autoencoder import RatingAutoencoder
    from overnight.optim.groups import param_groups
    from overnight.scaling import Hyperparameters
    from overnight.tasks.recommendation import RecommendationTask
    from overnight.train.components import import_object
    from overnight.train.run import Run

    base = PRESETS[preset]
    said: dict[str, Any] = {
        "hidden": hidden,
        "dropout": dropout,
        "biases": biases,
        "normalized": normalized,
        "implicit": implicit,
        "bounded": bounded,
        "hide": hide,
        "score": score,
        "last_activation": last_activation,
        "refeeding": refeeding,
        "optimizer": optimizer,
        "schedule": schedule,
        "weight_decay": weight_decay,
    }
    chosen = replace(base, **{name: value for name, value in said.items() if value is not None})
    path, fixed = _optimizer(chosen.optimizer, lr, base)
    batch = base.batch_size if batch_size is None else batch_size
    budget: dict[str, Any] = {"epochs": epochs, "steps": steps, "minutes": minutes}
    if all(value is None for value in budget.values()):
        budget["epochs"] = base.epochs
    share = held_out if held_out is not None else (1 if split == "leave-last" else 0.1)
    kept = partial(
        RatingSettings,
        columns=columns,
        duplicates=duplicates,
        scale=scale,
        split=split,
        valid=valid_share,
        test=share,
        seed=seed,
        by=by,
    )
    source: dict[str, Any] = {
        "corpus": str(data.resolve()),
        "settings": kept,
        "valid": str(valid.resolve()) if valid else "",
        "test": str(test.resolve()) if test else "",
    }
    splits = load_ratings(source["corpus"], kept(), valid=source["valid"], test=source["test"])
    scored = "valid" if len(splits.valid) else "test"
    found, notes = scaled(Hyperparameters(lr=base.lr, global_batch_size=base.batch_size), batch, rule, lr)
    notes += [_told(name, splits) for name in ("valid", "test") if len(splits.split(name))]
    heldout: dict[str, Any] = {**source, "split": scored}
    again: dict[str, Any] = {"repetitions": repetitions} if chosen.refeeding == "alternating" else {}
    net: dict[str, Any] = {"hidden": chosen.hidden, "dropout": chosen.dropout, "activation": activation, "tied": tied}
    for name in ("last_activation", "biases", "normalized", "implicit"):
        net[name] = getattr(chosen, name)
    if chosen.bounded:
        net["bounds"] = scale or splits.train.bounds
    refed: dict[str, Any] = {"refeeding": chosen.refeeding, "repetitions": repetitions, "dense_items": dense_items}
    if chosen.biases:
        refed["start"] = partial(damped_item_biases, **source)
    return Run(
        recipe="recommender",
        model=partial(
            RatingAutoencoder, items=len(splits.items), mean=splits.train.mean if chosen.biases else 0.0, **net
        ),
        task=partial(RecommendationTask, score=cast(Any, chosen.score), **refed),
        data=partial(rating_batches, **source, hide=chosen.hide, dense_items=dense_items, **again),
        optimizer=partial(import_object(path), lr=found.lr, weight_decay=chosen.weight_decay, **fixed),
        param_groups=partial(param_groups),
        schedule=partial(getattr(schedules, chosen.schedule)),
        global_batch_size=batch,
        micro_batch_size=micro_batch_size,
        precision=precision,
        max_norm=max_norm or None,
        seed=seed,
        evaluate=partial(heldout_ratings, **heldout) if len(splits.split(scored)) else None,
        evaluations=evaluations if evaluations is not None else 10,
        baselines=partial(rating_baselines, **heldout) if len(splits.split(scored)) else None,
        notes=tuple(notes),
        **budget,
    )


def _optimizer(name: str, lr: float | None, base: Preset) -> tuple[str, dict[str, Any]]:
    if name not in OPTIMIZERS and "." not in name:
        remedy = f"{near(name, OPTIMIZERS)} Or give an import path such as torch.optim.RMSprop."
        raise UserError(f"There is no optimizer {name!r}.", remedy)
    if lr is None and name != base.optimizer:
        raise UserError(f"There is no tuned rate of {name} in this preset.", "Give one with --lr.")
    return OPTIMIZERS.get(name, (name, {}))


def _told(name: str, splits: Any) -> str:
    dropped = splits.dropped.get(name, {}).get("ratings", 0)
    cold = f"; {dropped:,} of users or items that training does not have are left out" if dropped else ""
    return f"{len(splits.split(name)):,} {name} ratings{cold}"
