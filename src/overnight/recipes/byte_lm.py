"""The byte-level language model of Puri et al. 2018, from a laptop to the paper's own job."""

import difflib
import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from overnight.errors import UserError
from overnight.recipes.byte_presets import PRESETS, Preset
from overnight.recipes.dial import adapted, planned
from overnight.recipes.parallel import byte_plan, check_way, parallel_of

if TYPE_CHECKING:
    from overnight.scaling import Hyperparameters
    from overnight.train.run import Run

PAPER_LR, PAPER_BATCH, PAPER_HORIZON_STEPS = 5e-4, 128, 100_000
ADAM_EPS, MAX_NORM = 1e-8, 1.0
EPS = {"lamb": 1e-6}
OPTIMIZERS = {
    "adam": "torch.optim.Adam",
    "adamw": "torch.optim.AdamW",
    "lamb": "overnight.optim.LAMB",
    "lars": "overnight.optim.LARS",
}
ADAM_FAMILY = ("adam", "adamw", "lamb")
WEIGHT_DECAY = {"lamb": 0.01, "lars": 1e-4}
"""Of the optimizers with tuned rates of their own, and groups: biases and gains are neither decayed nor adapted."""


def byte_lm(
    data: Path,
    preset: str = "laptop",
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    length: int | None = None,
    lr: float | None = None,
    rule: Literal["preset", "none", "linear", "sqrt", "legw", "adam_sde", "date", "paper"] = "preset",
    epochs: float | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    optimizer: str = "adam",
    schedule: Literal["linear", "cosine", "constant", "polynomial", "inverse_sqrt"] = "linear",
    warmup_steps: int | None = None,
    max_norm: float | None = MAX_NORM,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    reset: Literal["shard", "document", "never"] = "shard",
    evaluations: int = 6,
    seed: int = 0,
    parallel: str | None = None,
) -> "Run":
    """Train a byte-level language model (a multiplicative LSTM) on a prepared corpus.

    Puri et al. 2018, "Large Scale Language Modeling: Converging on 40GB of Text in Four Hours" (arXiv 1808.01371).
    Presets 4096 and 8192 are the paper's models with the paper's settings; its goal there is 1.12 bits per byte on the
    Amazon reviews. Of the other presets, docs/results.md says which were measured, and what they reach.

    Args:
        data: the corpus folder that `overnight prepare` made.
        preset: laptop, ten-minutes, 512, 1024, 2048, 4096 or 8192: model, baseline batch, rate and budget.
        batch_size: lanes of one update over all ranks: the dial. The rate follows it by the preset's rule.
        micro_batch_size: lanes of one forward and backward on one rank; less memory, same result.
        length: bytes a lane and update (truncated backpropagation; the state is carried on).
        lr: peak rate; given, no rule touches it.
        rule: how the rate follows the batch (docs/scaling.md); legw scales the warm-up too, adam_sde the betas and eps.
            date measures as it goes. paper: min(5e-4·B/128, 3e-3), falling over 100,000 steps above 2048.
        epochs: budget in passes over the training split.
        steps: budget in updates.
        minutes: budget in minutes of wall-clock time.
        optimizer: adam, adamw, lamb, lars (each with its tuned rate), or the import path of any torch.optim.Optimizer.
        schedule: how the rate falls.
        warmup_steps: updates over which the rate rises; kept in samples.
        max_norm: clip the gradient to this L2 norm; None for never.
        precision: auto takes bf16 where the device has it.
        reset: zero the state at shard edges (the paper's), document edges, or never.
        evaluations: held-out evaluations, evenly over the run.
        seed: of weights and data.
        parallel: how ranks train together: ddp, fsdp, sampled, local or async (docs/parallel.md); plain DDP unless
            given.
    """
    check_way(parallel)
    if preset not in PRESETS:
        raise UserError(f"There is no preset {preset!r}.", _near(preset, PRESETS))
    base = PRESETS[preset]
    batch = base.batch if batch_size is None else batch_size
    length = base.length if length is None else length
    chosen = base.rule if rule == "preset" else rule
    scaled, notes = _scaled(preset, batch, lr, chosen, optimizer)
    budget = _budget(base, epochs, steps, minutes)

    from overnight.data.lanes import corpus_lanes
    from overnight.evaluate.training import heldout_baselines, heldout_record, sample_text
    from overnight.models.byte_lm import ByteLM
    from overnight.tasks.language_model import LanguageModelTask
    from overnight.train.run import Run

    if lr is None and optimizer not in OPTIMIZERS:
        notes.append(f"the rate is the one that was tuned for Adam; {optimizer} may want another: --lr")
    corpus = str(data.resolve())
    held_out = _held_out_split(data)
    if held_out is None:
        notes.append("nothing is held out, so nothing is evaluated: prepare the corpus with --split or --valid")
    run = Run(
        recipe="byte-lm",
        model=partial(
            ByteLM,
            hidden_size=base.hidden_size,
            embedding_size=base.embedding_size,
            init=base.init,
            forget_bias=base.forget_bias,
        ),
        task=partial(LanguageModelTask),
        data=partial(corpus_lanes, corpus=corpus, split="train", length=length, reset=reset),
        optimizer=_optimizer(optimizer, scaled.lr if lr is None else lr, scaled),
        param_groups=_param_groups(optimizer),
        schedule=_schedule(schedule, scaled, warmup_steps, chosen, notes),
        global_batch_size=batch,
        micro_batch_size=micro_batch_size,
        precision=precision,
        max_norm=max_norm,
        seed=seed,
        evaluate=partial(heldout_record, corpus=corpus, split=held_out, reset=reset) if held_out else None,
        evaluations=evaluations,
        sample=partial(sample_text) if held_out else None,
        baselines=partial(heldout_baselines, corpus=corpus, split=held_out) if held_out else None,
        notes=tuple(notes),
        parallel=parallel_of(parallel, byte_plan()),
        **budget,
    )
    if chosen != "date":
        return run
    warmup = base.warmup_steps * base.batch
    tuned = replace(scaled, global_batch_size=base.batch, warmup_samples=warmup, max_norm=MAX_NORM)
    if optimizer not in ADAM_FAMILY:
        tuned = replace(tuned, betas=None, eps=None)
    return adapted(run, tuned, chosen, lr, warmup_steps)


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {near[0]}?" if near else f"Choose one of {', '.join(names)}."


def _scaled(
    preset: str, batch: int, lr: float | None, rule: str, optimizer: str
) -> "tuple[Hyperparameters, list[str]]":
    from overnight.scaling import rules

    base = PRESETS[preset]
    if batch < 1:
        raise UserError(f"A batch of {batch} cannot work.", "Take at least 1.")
    if lr is not None and not 0 < lr < math.inf:
        raise UserError(f"A rate of {lr:g} cannot work.", "Take --lr above 0, or leave it to the preset.")
    baseline = rules.Hyperparameters(
        lr=_tuned_lr(base, preset, optimizer) if lr is None else lr,
        global_batch_size=base.batch,
        warmup_samples=base.warmup_steps * base.batch,
        betas=(0.9, base.beta2),
        eps=EPS.get(optimizer, ADAM_EPS),
    )
    if lr is not None:
        return rules.none(baseline, global_batch_size=batch).hyperparameters, []
    if rule == "paper":
        paper = replace(baseline, lr=PAPER_LR, global_batch_size=PAPER_BATCH)
        scaled = rules.capped_linear(paper, global_batch_size=batch).hyperparameters
        return scaled, [f"rate {scaled.lr:g} = min({PAPER_LR:g} · {batch}/{PAPER_BATCH}, 0.003), the paper's rule"]
    if rule == "adam_sde" and optimizer not in ADAM_FAMILY:
        raise UserError("The rule adam_sde is for Adam.", "Take --optimizer adam, adamw or lamb, or --rule sqrt.")
    scale: Callable[..., rules.Scaled] = getattr(rules, planned(rule))
    try:
        found = scale(baseline, global_batch_size=batch)
    except ValueError as error:
        raise UserError(str(error), "Take --rule sqrt, or another batch.") from error
    if planned(rule) == "none" or batch == base.batch:
        return found.hyperparameters, []
    why = f"{baseline.lr:g} at batch {base.batch}, by the {rule} rule at batch {batch}"
    if rule in ("legw", "adam_sde"):  # they change more than the rate
        why = found.explanation
    return found.hyperparameters, [f"rate {found.hyperparameters.lr:g}: {why}"]


def _budget(base: Preset, epochs: float | None, steps: int | None, minutes: float | None) -> dict[str, Any]:
    given = {"epochs": epochs, "steps": steps, "minutes": minutes}
    if any(value is not None for value in given.values()):
        return given
    return {"epochs": base.epochs, "steps": None, "minutes": base.minutes}


def _optimizer(name: str, lr: float, scaled: "Hyperparameters") -> "partial[Any]":
    from overnight.train.components import import_object, keyword_names

    if "." not in name and name not in OPTIMIZERS:
        raise UserError(
            f"There is no optimizer {name!r}.",
            f"{_near(name, OPTIMIZERS)} Or give an import path such as torch.optim.SGD.",
        )
    target = import_object(OPTIMIZERS.get(name, name))
    settings: dict[str, Any] = {"lr": lr}
    if name in ADAM_FAMILY:
        settings["betas"] = scaled.betas
        if scaled.eps != EPS.get(name, ADAM_EPS):
            settings["eps"] = scaled.eps
    if name in ("adam", "adamw") and "fused" in (keyword_names(target) or []):
        settings["fused"] = True
    return partial(target, **settings)


def _param_groups(optimizer: str) -> "partial[Any] | None":
    from overnight.optim.groups import param_groups

    return partial(param_groups, weight_decay=WEIGHT_DECAY[optimizer]) if optimizer in WEIGHT_DECAY else None


def _tuned_lr(base: Preset, preset: str, optimizer: str) -> float:
    if optimizer not in WEIGHT_DECAY:
        return base.lr
    if optimizer not in base.tuned:
        raise UserError(f"Preset {preset} has no tuned rate for {optimizer}.", "Give one with --lr.")
    return base.tuned[optimizer]


def _schedule(
    name: str, scaled: "Hyperparameters", warmup_steps: int | None, rule: str, notes: list[str]
) -> "partial[Any]":
    from overnight import schedule

    if warmup_steps is not None and warmup_steps < 0:
        raise UserError(f"--warmup-steps {warmup_steps} cannot work.", "Take 0 for none, or more.")
    batch = scaled.global_batch_size
    warmup_samples = scaled.warmup_samples if warmup_steps is None else warmup_steps * batch
    settings: dict[str, Any] = {"warmup_samples": warmup_samples}
    if rule == "paper" and batch > 2048 and name == "linear":
        settings["horizon_samples"] = PAPER_HORIZON_STEPS * batch
        notes.append(f"above batch 2048 the rate falls over {PAPER_HORIZON_STEPS:,} steps, whatever the run's length")
    return partial(getattr(schedule, name), **settings)


def _held_out_split(data: Path) -> str | None:
    """``valid``, or ``test`` where there is no validation split, or None where all is for training."""
    from overnight.data.corpus import Corpus

    corpus = Corpus(data)
    return next((name for name in ("valid", "test") if len(corpus.split(name)) > 1), None)
