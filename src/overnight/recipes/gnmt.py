"""Translation with GNMT: the published size for WMT16, and one that a core trains on Multi30k."""

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from overnight.errors import UserError
from overnight.recipes.dial import adapted, check_up, near, scaled
from overnight.recipes.gnmt_presets import PRESETS, GNMTPreset

if TYPE_CHECKING:
    from overnight.scaling import Hyperparameters
    from overnight.train.run import Run


def gnmt(
    data: Path,
    preset: str = "multi30k",
    batch_size: int | None = None,
    micro_batch_size: int | None = None,
    lr: float | None = None,
    rule: Literal["none", "linear", "sqrt", "legw", "adam_sde", "date"] = "legw",
    epochs: float | None = None,
    steps: int | None = None,
    dropout: float | None = None,
    smoothing: float | None = None,
    beam: int = 5,
    alpha: float = 0.6,
    beta: float = 0.1,
    tokenize: str = "13a",
    max_norm: float | None = None,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    evaluations: int | None = None,
    seed: int = 0,
) -> "Run":
    """Train a translator: GNMT, a residual LSTM encoder-decoder with additive attention.

    gnmt: Wu et al. 2016 (arXiv 1609.08144) as MLPerf trained it ("v2"), on WMT16 English to German; target 21.8 BLEU
    after two epochs, batch 256 to 4,096 by LEGW (You et al. 2019, arXiv 1901.08256). multi30k: the same with 3 + 3
    layers of 256, batch 128 to 2,048. Adam; the rate rises linearly, and halves four times in the last third of the
    run. Perplexity at evaluations, BLEU at the end (docs/translation.md).

    Args:
        data: the corpus folder that `overnight prepare --pairs` made.
        preset: multi30k or gnmt.
        batch_size: pairs of one update over all ranks: the dial.
        micro_batch_size: pairs of one forward and backward on one rank.
        lr: rate; given, no rule touches it.
        rule: how rate and warm-up follow the batch (docs/scaling.md); legw keeps the warm-up's steps, others its pairs;
            date measures as it goes.
        epochs: budget in passes over the training split.
        steps: budget in updates.
        dropout: on the input of every recurrent layer.
        smoothing: of the labels.
        beam: hypotheses of a sentence at the end of the run.
        alpha: length normalisation of the search.
        beta: coverage penalty of the search.
        tokenize: of sacrebleu.
        max_norm: clip the gradient to this L2 norm; 0 for never.
        precision: auto takes bf16 where the device has it.
        evaluations: held-out evaluations, evenly over the run.
        seed: of weights, data and dropout.
    """
    if preset not in PRESETS:
        raise UserError(f"There is no preset {preset!r}.", near(preset, PRESETS))
    base = PRESETS[preset]
    batch = base.batch if batch_size is None else batch_size
    if epochs is not None and steps is not None:
        raise UserError(f"A run has one budget; given: epochs={epochs:g}, steps={steps}.", "Give one of the two.")

    import torch

    from overnight.data.pairs import PairCorpus
    from overnight.data.pairs.batches import pair_batches
    from overnight.evaluate.beam import Beam
    from overnight.evaluate.bleu import bleu_is_there
    from overnight.evaluate.translation import heldout_pairs
    from overnight.models.seq2seq import GNMT
    from overnight.schedule import constant, multistep
    from overnight.tasks.translation import TranslationTask
    from overnight.train.run import Run

    Beam(beam, alpha, beta)
    corpus, opened = str(data.resolve()), PairCorpus(data)
    notes: list[str] = []
    pairs = opened.split("train").pairs
    steps_per_epoch = pairs // batch if batch > 0 else 0
    length = base.epochs if epochs is None else epochs
    total_steps = steps if steps is not None else max(1, math.ceil(length * steps_per_epoch))
    if batch > pairs:
        raise UserError(f"The corpus has {pairs:,} pairs, too few for a batch of {batch:,}.", f"Take at most {pairs}.")
    tuned, adam, warmup = _scaled(base, batch, lr, rule, notes)
    if rule == "date":
        check_up(batch, base.batch)
        warmup = min(base.warmup_steps * batch, total_steps * batch)  # how long it is in the end is its own affair
    if warmup > total_steps * batch:
        raise UserError(
            f"A warm-up of {warmup / batch:,.0f} steps is longer than the run of {total_steps:,}.",
            "Take more --epochs or --steps, a smaller batch or another --rule.",
        )
    held_out = next((name for name in ("valid", "test") if opened.split(name).pairs), None)
    if held_out is None:
        notes.append("nothing is held out, so nothing is evaluated: prepare the corpus with --valid")
    elif not bleu_is_there():
        notes.append("no BLEU at the end: it needs sacrebleu (pip install 'overnight[text]')")
    milestones = _milestones(base, total_steps * batch, warmup)
    schedule = partial(constant, warmup_samples=warmup)
    if milestones:
        schedule = partial(multistep, milestones=milestones, gamma=base.factor, warmup_samples=warmup)
    search: dict[str, Any] = {"beam": beam, "alpha": alpha, "beta": beta, "tokenize": tokenize}
    search |= {"bleu": bleu_is_there()}
    shared = base.shared and opened.joint
    if base.shared and not shared:
        notes.append("two embeddings, since the corpus has two vocabularies: prepare it with --joint for one")
    run = Run(
        recipe="gnmt",
        model=partial(
            GNMT,
            source_vocab_size=opened.vocab_sizes[0],
            target_vocab_size=opened.vocab_sizes[1],
            hidden_size=base.hidden_size,
            encoder_layers=base.layers,
            decoder_layers=base.layers,
            dropout=base.dropout if dropout is None else dropout,
            shared=shared,
            init_range=base.init_range,
            attention_gain=base.attention_gain,
        ),
        task=partial(TranslationTask, smoothing=base.smoothing if smoothing is None else smoothing),
        data=partial(pair_batches, corpus=corpus, split="train"),
        optimizer=partial(torch.optim.Adam, **adam),
        schedule=schedule,
        global_batch_size=batch,
        micro_batch_size=micro_batch_size,
        epochs=None if steps is not None else length,
        steps=steps,
        precision=precision,
        max_norm=base.max_norm if max_norm is None else max_norm or None,
        seed=seed,
        evaluate=partial(heldout_pairs, corpus=corpus, split=held_out, **search) if held_out else None,
        evaluations=base.evaluations if evaluations is None else evaluations,
        notes=tuple(notes),
    )
    return adapted(run, tuned, rule, lr)


def _scaled(
    base: GNMTPreset, batch: int, lr: float | None, rule: str, notes: list[str]
) -> "tuple[Hyperparameters, dict[str, Any], float]":
    """The baseline, Adam's settings, and the warm-up in pairs."""
    from overnight.scaling import Hyperparameters

    if lr is not None and not 0 < lr < math.inf:
        raise UserError(f"A rate of {lr:g} cannot work.", "Take --lr above 0, or leave it to the preset.")
    tuned = Hyperparameters(
        lr=base.lr,
        global_batch_size=base.batch,
        warmup_samples=base.warmup_steps * base.batch,
        betas=base.betas,
        eps=base.eps,
        max_norm=base.max_norm,
    )
    found, said = scaled(tuned, batch, rule)
    notes += said
    if lr is not None:
        notes.append(f"the rate is {lr:g}, as given, whatever the rule; the rest is the rule's")
    adam = {"lr": found.lr if lr is None else lr, "betas": found.betas, "eps": found.eps}
    return tuned, adam, found.warmup_samples


def _milestones(base: GNMTPreset, total: float, warmup: float) -> tuple[float, ...]:
    """Where the rate falls, in samples; what would lie in the warm-up falls when that ends."""
    step = (1.0 - base.remain) / base.drops
    found = {max(warmup, total * (base.remain + index * step)) for index in range(base.drops)}
    return tuple(sorted(one for one in found if 0 < one < total))
