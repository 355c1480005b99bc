"""Fine-tune BERT on labelled texts."""

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from overnight.errors import UserError
from overnight.recipes.dial import scaled

if TYPE_CHECKING:
    from overnight.train.run import Run

BATCH = 32
LR = 1e-4
EPOCHS = 3.0
WARMUP = 0.1
"""Share of the run at the baseline's batch."""


def bert_classify(
    data: Path,
    from_: Annotated[Path, tyro.conf.arg(name="from", metavar="RUN")],
    dev: Path | None = None,
    test: Path | None = None,
    batch_size: int = BATCH,
    micro_batch_size: int | None = None,
    lr: float | None = None,
    rule: Literal["none", "linear", "sqrt", "legw", "adam_sde"] = "sqrt",
    optimizer: Literal["adamw", "lamb"] = "adamw",
    epochs: float | None = None,
    length: int = 128,
    dropout: float = 0.1,
    max_norm: float = 1.0,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    evaluations: int | None = None,
    seed: int = 0,
) -> "Run":
    """Fine-tune a BERT that `overnight train bert` pre-trained, on labelled texts such as SST-2.

    Devlin et al. 2019 (arXiv 1810.04805), section 4.1: one layer over the pooled [CLS], all weights trained, three
    epochs, a warm-up of a tenth of them and a linear fall. Accuracy on the dev split where there is one, else on test.

    Args:
        data: a file or folder of labelled texts (csv, tsv, json, jsonl, parquet, or lines of `label text`).
        from_: the run folder of a pre-trained BERT.
        dev: a file with the dev split.
        test: a file with the test split.
        batch_size: texts of one update over all ranks: the dial.
        micro_batch_size: texts of one forward and backward on one rank.
        lr: peak rate; given, no rule touches it.
        rule: how rate and warm-up follow the batch (docs/scaling.md).
        optimizer: adamw or lamb; lamb with --lr.
        epochs: budget in passes over the training texts.
        length: word pieces of a text at most.
        dropout: of hidden states and attention.
        max_norm: clip the gradient to this L2 norm; 0 for never.
        precision: auto takes bf16 where the device has it.
        evaluations: over the run; one an epoch unless given.
        seed: of the new layer, order and dropout.
    """
    import torch

    from overnight.data.labelled import labelled_set
    from overnight.data.masked.labelled import text_batches
    from overnight.evaluate.labels import heldout_texts
    from overnight.models.bert import BERTClassifier
    from overnight.optim import LAMB
    from overnight.optim.groups import param_groups
    from overnight.recipes.bert_pretrained import read_pretrained
    from overnight.scaling import Hyperparameters
    from overnight.schedule import linear
    from overnight.tasks.text_classification import TextClassificationTask
    from overnight.train.run import Run

    if optimizer == "lamb" and lr is None:
        raise UserError("There is no tuned rate of LAMB for fine-tuning.", "Give one with --lr.")
    before = read_pretrained(from_, length)
    found = labelled_set(data, dev=dev, test=test)
    passes = EPOCHS if epochs is None else epochs
    baseline = Hyperparameters(
        lr=LR, global_batch_size=BATCH, warmup_samples=WARMUP * passes * len(found.train), betas=(0.9, 0.999)
    )
    settings, notes = scaled(baseline, batch_size, rule, lr)
    rates: dict[str, Any] = {"lr": settings.lr, "betas": settings.betas}
    total = math.ceil(passes * len(found.train) / batch_size) * batch_size
    if settings.warmup_samples > total / 2:
        notes.append(f"a warm-up of {settings.warmup_samples:,.0f} texts is cut to half the run, {total / 2:,.0f}")
    tokenizer = str(before.corpus.folder.resolve())
    texts: dict[str, Any] = {"corpus": str(data), "tokenizer_of": tokenizer, "length": length}
    if data.exists():
        texts["corpus"] = str(data.resolve())
    texts |= {name: str(path.resolve()) for name, path in (("dev", dev), ("test", test)) if path is not None}
    return Run(
        recipe="bert-classify",
        model=partial(BERTClassifier, **before.sizes, dropout=dropout, classes=len(found.classes)),
        task=partial(TextClassificationTask),
        data=partial(text_batches, **texts),
        optimizer=partial(LAMB if optimizer == "lamb" else torch.optim.AdamW, eps=1e-6, **rates),
        param_groups=partial(param_groups, weight_decay=0.01),
        schedule=partial(linear, warmup_samples=min(settings.warmup_samples, total / 2)),
        global_batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        epochs=passes,
        precision=precision,
        max_norm=max_norm or None,
        seed=seed,
        start=before.start(),
        evaluate=partial(heldout_texts, split="dev" if found.dev is not None else "test", **texts),
        evaluations=max(1, round(passes)) if evaluations is None else evaluations,
        notes=(*before.notes, *notes, f"{len(found.classes)} classes: {', '.join(found.classes[:10])}; {found.split}"),
    )
