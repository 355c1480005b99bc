"""Word language models: the Penn Treebank's of Zaremba et al., One Billion Word's of f-lm, and older ones."""

import math
import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from overnight.errors import UserError
from overnight.recipes.dial import adapted, near, planned
from overnight.recipes.parallel import check_way, parallel_of, word_plan
from overnight.recipes.word_presets import GPU_BATCH, PRESETS, QUIRKS, WordPreset

if TYPE_CHECKING:
    from overnight.data.words.corpus import WordCorpus
    from overnight.train.run import Run

OPTIMIZERS = {
    "sgd": "overnight.optim.rows.RowSGD",
    "adagrad": "overnight.optim.rows.RowAdagrad",
    "adam": "torch.optim.Adam",
    "row-adam": "overnight.optim.rows.RowAdam",
    "adamw": "torch.optim.AdamW",
    "lamb": "overnight.optim.LAMB",
}
TAKES_ROWS = ("sgd", "adagrad", "row-adam")
"""Optimizers that take the gradients of some rows of an embedding alone."""


def word_lm(
    data: Path,
    preset: str = "ptb-small",
    gates: str | None = None,
    output: str | None = None,
    sampler: Literal["log-uniform", "unigram"] = "log-uniform",
    tied: bool = False,
    dropout: float | None = None,
    factor_init: Literal["auto", "independent", "svd"] = "auto",
    frobenius_decay: float = 0.0,
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    length: int | None = None,
    lr: float | None = None,
    rule: Literal["none", "linear", "sqrt", "legw", "date"] = "sqrt",
    warmup_steps: int = 0,
    epochs: float | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    optimizer: str | None = None,
    max_norm: float | None = None,
    ema: float | None = None,
    quirks: str = "preset",
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    reset: Literal["preset", "never", "sentence", "shard"] = "preset",
    evaluations: int | None = None,
    seed: int = 0,
    parallel: str | None = None,
) -> "Run":
    """Train a word language model, an LSTM with any gates and softmax unless the preset says otherwise.

    ptb-small, ptb-medium, ptb-large: Zaremba et al. 2014 (arXiv 1409.2329). lm1b: Kuchaiev and Ginsburg 2017 (arXiv
    1703.10722), with the corrected results of their f-lm. wsj-fnn, wsj-rnn: Bengio et al. 2003, Mikolov et al. 2010.
    The rate falls by steps, at the start of epochs. Evaluation is exact whatever is trained (docs/word_models.md).

    Args:
        data: the corpus folder that `overnight prepare --words` made.
        preset: ptb-small, ptb-medium, ptb-large, wsj-lstm, wsj-rnn, wsj-fnn, lm1b or lm1b-small.
        gates: dense, factorized:RANK (F-LSTM) or grouped:GROUPS (G-LSTM).
        output: full, sampled:N, nce:N or adaptive:C1,C2,…; what is trained.
        sampler: what sampled and nce draw from; unigram takes the corpus's counts.
        tied: the embedding is the softmax's weight too.
        dropout: on the embedding, between layers and before the softmax.
        factor_init: of factorized gates; svd is spectral initialisation, and auto takes it but for One Billion Word's.
        frobenius_decay: of factorized gates: half of it times the squared norm of the product is added to the loss.
        batch_size: lanes of one update over all ranks: the dial.
        micro_batch_size: lanes of one forward and backward on one rank.
        length: words a lane and update (truncated backpropagation; the state is carried on).
        lr: rate; given, no rule touches it.
        rule: how the rate follows the batch; legw is sqrt with the steps of --warmup-steps at every batch; date
            measures as it goes (docs/methods/date.md).
        warmup_steps: updates over which the rate rises at the start; the presets have none.
        epochs: budget in passes over the training split.
        steps: budget in updates.
        minutes: budget in minutes of wall-clock time.
        optimizer: sgd, adagrad, adam, row-adam, adamw, lamb, or the import path of a torch.optim.Optimizer; with --lr.
        max_norm: clip the gradient to this L2 norm; 0 for never.
        ema: decay of the average of the weights that is evaluated; 0 for none.
        quirks: of f-lm's code: preset, none, all, or names between commas (docs/word_models.md).
        precision: auto takes bf16 where the device has it.
        reset: zero the state before each sentence or shard, or never.
        evaluations: held-out evaluations, evenly over the run; one an epoch unless given.
        seed: of weights, data and sampled words.
        parallel: how ranks train together: ddp, fsdp, sampled, local or async (docs/parallel.md); plain DDP unless
            given.
    """
    check_way(parallel)
    if preset not in PRESETS:
        raise UserError(f"There is no preset {preset!r}.", near(preset, PRESETS))
    base = PRESETS[preset]
    on = _quirks(quirks, base)
    batch = base.batch if batch_size is None else batch_size
    length = base.length if length is None else length
    chosen = base.optimizer if optimizer is None else optimizer
    notes: list[str] = []
    rate = _rate(base, batch, lr, rule, chosen, notes)

    from overnight.data.words.corpus import WordCorpus
    from overnight.evaluate.words import heldout_words, word_baselines
    from overnight.models.word_lm import clip_recurrent_only
    from overnight.scaling import Hyperparameters
    from overnight.schedule import constant
    from overnight.schedule.endless import exponential
    from overnight.tasks.word_model import WordModelTask
    from overnight.train.average import WeightAverage
    from overnight.train.run import Run

    corpus, opened = str(data.resolve()), WordCorpus(data)
    held_out = next((name for name in ("valid", "test") if len(opened.split(name))), None)
    if held_out is None:
        notes.append("nothing is held out, so nothing is evaluated: prepare the corpus with --valid or --split")
    summed = "loss-times-steps" in on if base.quirks else base.sum_over_time
    if summed:
        notes.append(f"the loss is summed over {length} words and averaged over lanes: rate and norm are of that sum")
    if on:
        notes.append(f"quirks of f-lm: {', '.join(on)}")
    clip_some = "clip-recurrent-only" in on
    averaged = base.ema if ema is None else ema
    warmup = _warmup(warmup_steps, batch)
    schedule = partial(constant, **warmup)
    epoch_samples = _steps_per_epoch(opened, batch, length) * batch
    if base.decay < 1:
        start = max(0, base.constant_epochs - 1) * epoch_samples
        schedule = partial(
            exponential, gamma=base.decay, every_samples=epoch_samples, start_samples=start, staircase=True, **warmup
        )
    budget = {"epochs": epochs, "steps": steps, "minutes": minutes}
    if all(value is None for value in budget.values()):
        budget["epochs"] = base.epochs
    total = steps * batch if steps is not None else (budget["epochs"] or math.inf) * epoch_samples
    if rule != "date" and warmup_steps * batch > total:
        raise UserError(
            f"A warm-up of {warmup_steps:,} steps is longer than the run of {total / batch:,.0f}.",
            "Take fewer --warmup-steps, a smaller batch or a longer run.",
        )
    zeroed = base.reset if reset == "preset" else reset
    passes = budget["epochs"]
    layer, kind = base.output if output is None else output, base.gates if gates is None else gates
    rows = _rows(chosen, parallel, tied and layer == "full", notes)
    run = Run(
        recipe="word-lm",
        model=_model(base, opened, corpus, gates, layer, sampler, tied, dropout, factor_init, rows, on, seed),
        task=partial(WordModelTask, reduction="sum_over_time" if summed else "mean", frobenius_decay=frobenius_decay),
        data=partial(_lanes(), corpus=corpus, split="train", length=length, reset=zeroed),
        optimizer=_optimizer(chosen, rate),
        param_groups=partial(clip_recurrent_only) if clip_some else None,
        schedule=schedule,
        global_batch_size=batch,
        micro_batch_size=micro_batch_size,
        precision=precision,
        max_norm=base.max_norm if max_norm is None else max_norm or None,
        seed=seed,
        evaluate=partial(heldout_words, corpus=corpus, split=held_out, reset=zeroed) if held_out else None,
        evaluations=evaluations if evaluations is not None else max(1, round(passes or 6)),
        baselines=partial(word_baselines, corpus=corpus, split=held_out) if held_out else None,
        ema=_average(WeightAverage, averaged, on),
        notes=tuple(notes),
        parallel=parallel_of(parallel, word_plan(base.model, kind, layer, opened.vocab_size, tied, rows)),
        **budget,  # type: ignore[arg-type]
    )
    tuned = Hyperparameters(lr=rate, global_batch_size=base.batch, max_norm=base.max_norm)
    return adapted(run, tuned, rule, lr, warmup_steps or None)


def _quirks(text: str, base: WordPreset) -> tuple[str, ...]:
    known = {"preset": base.quirks, "all": tuple(QUIRKS), "none": (), "": ()}
    if text in known:
        return known[text]
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in QUIRKS:
            raise UserError(f"There is no quirk {name!r}.", near(name, [*QUIRKS, "preset", "all", "none"]))
    if not base.quirks:
        raise UserError("Quirks are those of f-lm's code.", "Take a preset of One Billion Word, or --quirks none.")
    return tuple(name for name in QUIRKS if name in names)


def _rate(base: WordPreset, batch: int, lr: float | None, rule: str, optimizer: str, notes: list[str]) -> float:
    from overnight.scaling import rules

    if batch < 1:
        raise UserError(f"A batch of {batch} cannot work.", "Take at least 1.")
    if lr is not None:
        if not 0 < lr < math.inf:
            raise UserError(f"A rate of {lr:g} cannot work.", "Take --lr above 0, or leave it to the preset.")
        return lr
    if optimizer != base.optimizer:
        raise UserError(f"The preset's rate is that of {base.optimizer}.", f"Give one for {optimizer} with --lr.")
    tuned = rules.Hyperparameters(lr=base.lr, global_batch_size=base.batch)
    found = getattr(rules, planned(rule))(tuned, global_batch_size=batch).hyperparameters
    if batch != base.batch and planned(rule) != "none":
        notes.append(f"rate {found.lr:g}: {base.lr:g} at batch {base.batch}, by the {rule} rule at batch {batch}")
    rate: float = found.lr
    return rate


def _warmup(steps: int, batch: int) -> dict[str, Any]:
    if steps < 0:
        raise UserError(f"--warmup-steps {steps} cannot work.", "Take 0 for none, or more.")
    return {"warmup_samples": float(steps * batch)} if steps else {}


def _steps_per_epoch(corpus: "WordCorpus", batch: int, length: int) -> int:
    return max(1, (len(corpus.split("train")) // batch - 1) // length)


def _rows(optimizer: str, parallel: str | None, all_rows: bool, notes: list[str]) -> bool:
    """Whether gradients hold the rows of the step only: not under DDP, since NCCL reduces no sparse tensors."""
    if optimizer not in TAKES_ROWS:
        return False
    if parallel == "sampled":
        return not all_rows
    if parallel in ("local", "async"):
        return True
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        notes.append("gradients of all rows, since there are several ranks")
        return False
    return True


def _model(
    base: WordPreset,
    opened: "WordCorpus",
    corpus: str,
    gates: str | None,
    output: str,
    sampler: str,
    tied: bool,
    dropout: float | None,
    factor_init: str,
    rows: bool,
    on: tuple[str, ...],
    seed: int,
) -> "partial[Any]":
    from overnight.models.neural_lm import FeedForwardLM, RecurrentLM
    from overnight.models.word_lm import WordLM

    settings: dict[str, Any] = {
        "vocab_size": opened.vocab_size,
        "embedding_size": base.embedding_size,
        "hidden_size": base.hidden_size,
        "dropout": base.dropout if dropout is None else dropout,
        "output": output,
        "sparse": rows,
        "init_range": base.init_range,
        "seed": seed,
    }
    if sampler != "log-uniform":
        settings |= {"sampler": sampler, "counts": corpus}
    if base.model != "lstm" and gates is not None:
        raise UserError(f"A model of kind {base.model} has no gates.", "Leave out --gates, or take an LSTM's preset.")
    if base.model == "fnn":
        if tied:
            raise UserError("A feed-forward model's embedding cannot be its softmax.", "Leave out --tied.")
        return partial(FeedForwardLM, **settings, context=base.context, pad=opened.fill)
    if tied:
        settings["tied"] = True
    if base.model == "rnn":
        return partial(RecurrentLM, **settings)
    settings |= {"layers": base.layers, "gates": base.gates if gates is None else gates}
    settings |= {"projection": base.projection, "forget_bias": base.forget_bias}
    factorized = settings["gates"].startswith("factorized")
    if factor_init != "auto" and not factorized:
        raise UserError("--factor-init is for factorized gates, and there are none.", "Take --gates factorized:R.")
    if factor_init == "svd" or (factor_init == "auto" and factorized and not base.quirks):
        settings["factor_init"] = "svd"
    if "embedding-gradient-times-batch" in on:
        settings["embedding_gradient_scale"] = float(GPU_BATCH)
    return partial(WordLM, **settings)


def _lanes() -> Any:
    from overnight.data.words.lanes import word_lanes

    return word_lanes


def _optimizer(name: str, lr: float) -> "partial[Any]":
    from overnight.train.components import import_object

    if "." not in name and name not in OPTIMIZERS:
        raise UserError(f"There is no optimizer {name!r}.", near(name, OPTIMIZERS))
    settings: dict[str, Any] = {"lr": lr}
    if name == "adagrad":
        settings |= {"initial_accumulator_value": 1.0, "eps": 0.0}  # TensorFlow's, by which the rate was chosen
    return partial(import_object(OPTIMIZERS.get(name, name)), **settings)


def _average(average: Any, decay: float | None, on: tuple[str, ...]) -> "partial[Any] | None":
    if not decay:
        return None
    only = {"only": ("recurrent.",)} if "ema-recurrent-only" in on else {}
    return partial(average, decay=decay, **only)
