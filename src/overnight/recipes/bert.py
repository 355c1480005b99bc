"""BERT pre-training in two phases with LAMB: the paper's 76 minutes, and sizes for less than 1,024 chips."""

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from overnight.errors import UserError
from overnight.recipes.bert_presets import LENGTHS, MAX_POSITION, PHASE_1, PRESETS, BERTPreset, phase_steps
from overnight.recipes.dial import near, scaled
from overnight.recipes.parallel import whole_parallel

if TYPE_CHECKING:
    from overnight.data.masked import MaskedCorpus
    from overnight.train.run import Run

SAMPLED_ROWS = 512
"""Rows that are looked at to know how many pieces a sequence hides on average."""
WEIGHT_DECAY = 0.01
LAYERS = ("model.network.bert.encoder.layer.*",)
"""That fsdp puts together one at a time."""


def bert(
    data: Path,
    preset: str = "tiny",
    phase: Literal[1, 2] = 1,
    from_: Annotated[Path | None, tyro.conf.arg(name="from", metavar="RUN")] = None,
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    lr: float | None = None,
    rule: Literal["none", "linear", "sqrt", "legw", "adam_sde"] = "legw",
    optimizer: Literal["lamb", "adamw"] = "lamb",
    epochs: float | None = None,
    steps: int | None = None,
    warmup_steps: int | None = None,
    length: int | None = None,
    whole_words: bool = False,
    next_sentence: bool = True,
    pack: bool = False,
    dropout: float = 0.1,
    recompute: bool = False,
    max_norm: float = 1.0,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    parallel: str | None = None,
    evaluations: int | None = None,
    seed: int = 0,
) -> "Run":
    """Pre-train BERT with LAMB: hidden word pieces and next sentences, 128 word pieces a sequence and then 512.

    You et al. 2020, "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes" (arXiv 1904.00962), table
    of untuned rates: 5e-3 / 2^3.0 at batch 512 to 5e-3 at 32K, 3,125 steps of warm-up at each. --preset large gives its
    8,599 steps: --phase 1 in batches of 64K, then --phase 2 --from RUN in batches of 32K. tiny takes minutes on one
    core (docs/bert.md).

    Args:
        data: the corpus folder that `overnight prepare --bert` made.
        preset: tiny, mini, small, medium, base or large.
        phase: 1 on short sequences; 2 on long ones, with the weights and the optimizer's state of --from.
        from_: the run folder of phase 1.
        batch_size: sequences (rows) of one update over all ranks: the dial.
        micro_batch_size: of one forward and backward on one rank; less memory, same result.
        lr: peak rate; given, no rule touches it.
        rule: how rate and warm-up follow the batch (docs/scaling.md); legw keeps the warm-up's steps.
        optimizer: lamb or adamw, each with its baseline.
        epochs: budget in passes over the training split.
        steps: budget in updates; the preset's sequences unless one is given.
        warmup_steps: updates over which the rate rises, whatever the rule says.
        length: word pieces of a sequence, 128 and 512 unless given.
        whole_words: hide all pieces of a word together.
        next_sentence: two segments, and whether they belong together; else one segment.
        pack: several sequences in a row, which do not see each other.
        dropout: of hidden states and attention.
        recompute: compute activations again in the backward: less memory, more time.
        max_norm: clip the gradient to this L2 norm; 0 for never.
        precision: auto takes bf16 where the device has it.
        parallel: how ranks train together: ddp, or fsdp, which shares weights and moments out (docs/parallel.md); plain
            DDP unless given.
        evaluations: held-out evaluations, evenly over the run.
        seed: of weights, order, masks and dropout.
    """
    together = whole_parallel(parallel, LAYERS)
    if preset not in PRESETS:
        raise UserError(f"There is no preset {preset!r}.", near(preset, PRESETS))
    base = PRESETS[preset]
    batch = base.batches[phase - 1] if batch_size is None else batch_size
    length = LENGTHS[phase - 1] if length is None else length
    if epochs is not None and steps is not None:
        raise UserError(f"A run has one budget; given: epochs={epochs:g}, steps={steps}.", "Give one of the two.")
    if phase == 2 and from_ is None:
        raise UserError(
            "Phase 2 goes on with the weights and the optimizer's state of phase 1, and none was named.",
            "Add --from RUN, or train --phase 1 first.",
        )
    if phase == 1 and from_ is not None:
        raise UserError("Phase 1 begins anew.", "Leave out --from, or add --phase 2.")

    import torch

    from overnight.data.masked import MaskedCorpus
    from overnight.data.masked.batches import MaskedBatches, check_sentences, masked_batches
    from overnight.data.masked.drawing import Masking
    from overnight.evaluate.masked import heldout_masked, masked_baselines
    from overnight.models.bert import BERT, check_length, transformers
    from overnight.optim import LAMB
    from overnight.optim.groups import param_groups
    from overnight.schedule import linear
    from overnight.tasks.pretraining import PretrainingTask
    from overnight.train.run import Run
    from overnight.train.start import from_run

    transformers()
    check_length(length, MAX_POSITION)
    opened = MaskedCorpus(data)
    check_sentences(opened, next_sentence)
    notes: list[str] = []
    settings = _architecture(base, opened, dropout, recompute)
    start = None
    if from_ is not None:
        notes += _check_first_phase(from_, settings, opened)
        start = partial(from_run, run=str(from_.resolve()))
    masks: dict[str, Any] = {"whole_words": whole_words, "next_sentence": next_sentence}
    batches = MaskedBatches(
        opened.split("train"), opened.pieces, max(1, batch), length=length, seed=seed, masking=Masking(**masks),
        packed=pack,
    )  # fmt: skip
    first = batches.at(0, 0, min(SAMPLED_ROWS, batches.rows))
    hidden = round(first.targets / len(first.first_S), 2)
    rates, warmup = _rates(base, optimizer, phase, batch, lr, rule, notes)
    warmup = warmup if warmup_steps is None else warmup_steps * batch
    count = _steps(base, phase, batch, epochs, steps, batches.steps_per_epoch)
    if warmup > count * batch:
        raise UserError(
            f"A warm-up of {warmup / batch:,.0f} steps is longer than the run of {count:,}.",
            "Take more --epochs or --steps, a smaller batch or fewer --warmup-steps.",
        )
    notes.append(
        f"phase {phase}: {count * batch:,} sequences of up to {length} word pieces, "
        f"{count / batches.steps_per_epoch:.3g} epochs of {batches.rows:,} rows; about {hidden:g} pieces hidden in each"
    )
    held_out = next((name for name in ("valid", "test") if opened.split(name).documents), None)
    if held_out is None:
        notes.append("nothing is held out, so nothing is evaluated: prepare the corpus with --valid")
    corpus = str(data.resolve())
    scored: dict[str, Any] = {"corpus": corpus, "split": held_out, "length": length, **masks}
    return Run(
        recipe="bert",
        model=partial(BERT, **settings),
        task=partial(PretrainingTask, next_sentence=hidden if next_sentence else 0.0),
        data=partial(masked_batches, corpus=corpus, length=length, packed=pack, **masks),
        optimizer=partial(LAMB if optimizer == "lamb" else torch.optim.AdamW, eps=1e-6, **rates),
        param_groups=partial(param_groups, weight_decay=WEIGHT_DECAY),
        schedule=partial(linear, warmup_samples=warmup),
        global_batch_size=batch,
        micro_batch_size=micro_batch_size,
        epochs=epochs,
        steps=None if epochs is not None else count,
        precision=precision,
        max_norm=max_norm or None,
        seed=seed,
        start=start,
        parallel=together,
        evaluate=partial(heldout_masked, **scored) if held_out else None,
        baselines=partial(masked_baselines, **scored) if held_out else None,
        evaluations=10 if evaluations is None else evaluations,
        notes=tuple(notes),
    )


def _architecture(base: BERTPreset, corpus: "MaskedCorpus", dropout: float, recompute: bool) -> dict[str, Any]:
    return {
        "vocab_size": corpus.vocab_size,
        "hidden_size": base.hidden_size,
        "num_layers": base.layers,
        "num_heads": base.heads,
        "max_position": MAX_POSITION,
        "dropout": dropout,
        "recompute": recompute,
    }


def _check_first_phase(run: Path, settings: dict[str, Any], corpus: "MaskedCorpus") -> list[str]:
    """Raise UserError unless a run trained this model on these word pieces; what there is to say of it."""
    from overnight.train.checkpoint import choose_checkpoint, read_run_json

    said = read_run_json(run)
    if said["run"].get("recipe") != "bert":
        raise UserError(f"{run} is a run of {said['run'].get('recipe')}, not of bert.", "Name the run of phase 1.")
    digest = said.get("derived", {}).get("vocabulary_digest")
    if digest != corpus.vocabulary_digest:
        raise UserError(
            f"The word pieces of {corpus.folder} are not those that {run} was trained with.",
            "Prepare the corpus with --tokenizer and the tokenizer.json of its corpus.",
        )
    theirs = said["run"].get("model", {}).get("kwargs", {})
    for name in ("hidden_size", "num_layers", "num_heads", "max_position"):
        if theirs.get(name) != settings[name]:
            raise UserError(
                f"{run} trained a BERT with {name}={theirs.get(name)}; this preset has {settings[name]}.",
                "Take the --preset of phase 1.",
            )
    made, planned = int(choose_checkpoint(run, "last").name), said.get("derived", {}).get("total_steps")
    if planned is not None and made < planned:
        return [f"{run} is not finished: phase 2 goes on from its step {made:,} of {planned:,}"]
    return []


def _rates(
    base: BERTPreset, optimizer: str, phase: int, batch: int, lr: float | None, rule: str, notes: list[str]
) -> tuple[dict[str, Any], float]:
    """The optimizer's rate and betas, and the warm-up in sequences."""
    from overnight.scaling import Hyperparameters

    given = base.lamb if optimizer == "lamb" else base.adamw
    share = 1.0 if phase == 1 else 1.0 - PHASE_1
    baseline = Hyperparameters(
        lr=given.lr,
        global_batch_size=base.batch,
        warmup_samples=math.floor(given.warmup_steps * share + 1e-9) * base.batch,
        betas=(0.9, 0.999),
    )
    found, said = scaled(baseline, batch, rule, lr)
    notes += said
    if lr is not None and rule == "legw":
        found = scaled(baseline, batch, rule)[0]
        notes.append(f"the rate is {lr:g}, as given, whatever the rule; the warm-up is the rule's")
    return {"lr": found.lr if lr is None else lr, "betas": found.betas}, found.warmup_samples


def _steps(
    base: BERTPreset, phase: int, batch: int, epochs: float | None, steps: int | None, steps_per_epoch: float
) -> int:
    if steps is not None:
        return steps
    if epochs is not None:
        return max(1, math.ceil(epochs * steps_per_epoch))
    return phase_steps(base, phase, batch)
