"""Fine-tune BERT to answer questions on paragraphs."""

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
LR = 5e-5
EPOCHS = 3.0
WARMUP = 0.1
"""Share of the run at the baseline's batch."""


def bert_squad(
    data: Path,
    from_: Annotated[Path, tyro.conf.arg(name="from", metavar="RUN")],
    dev: Path | None = None,
    batch_size: int = BATCH,
    micro_batch_size: int | None = None,
    lr: float | None = None,
    rule: Literal["none", "linear", "sqrt", "legw", "adam_sde"] = "sqrt",
    optimizer: Literal["adamw", "lamb"] = "adamw",
    epochs: float | None = None,
    length: int = 384,
    stride: int = 128,
    question_length: int = 64,
    longest: int = 30,
    dropout: float = 0.1,
    max_norm: float = 1.0,
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto",
    evaluations: int | None = None,
    seed: int = 0,
) -> "Run":
    """Fine-tune a BERT that `overnight train bert` pre-trained on questions in SQuAD's JSON, 1.1 or 2.0.

    Devlin et al. 2019 (arXiv 1810.04805), section 4.2 and 4.3: a layer marks the answer's first and last word piece,
    all weights trained; batch 32, rate 5e-5, three epochs, a warm-up of a tenth of them and a linear fall. Exact match
    and F1 on the dev file, as SQuAD counts them. Where training questions have no answer (2.0), silence is one.

    Args:
        data: a folder with train….json and dev….json (or .json.gz), or the training file.
        from_: the run folder of a pre-trained BERT, best of phase 2.
        dev: the dev file, where DATA is a file.
        batch_size: windows of one update over all ranks: the dial.
        micro_batch_size: windows of one forward and backward on one rank.
        lr: peak rate; given, no rule touches it.
        rule: how rate and warm-up follow the batch (docs/scaling.md).
        optimizer: adamw or lamb; lamb with --lr.
        epochs: budget in passes over the windows of the training questions.
        length: word pieces of a question with a window of its paragraph at most.
        stride: word pieces from the beginning of one window to that of the next.
        question_length: word pieces of a question at most.
        longest: word pieces of an answer at most.
        dropout: of hidden states and attention.
        max_norm: clip the gradient to this L2 norm; 0 for never.
        precision: auto takes bf16 where the device has it.
        evaluations: over the run; one an epoch unless given.
        seed: of the new layer, order and dropout.
    """
    import torch

    from overnight.data.masked.spans import SpanBatches, span_batches
    from overnight.data.masked.squad import read_squad, squad_files
    from overnight.evaluate.answers import heldout_answers
    from overnight.models.bert_span import BERTSpan
    from overnight.optim import LAMB
    from overnight.optim.groups import param_groups
    from overnight.recipes.bert_pretrained import read_pretrained
    from overnight.scaling import Hyperparameters
    from overnight.schedule import linear
    from overnight.tasks.span import SpanTask
    from overnight.train.run import Run

    if optimizer == "lamb" and lr is None:
        raise UserError("There is no tuned rate of LAMB for fine-tuning.", "Give one with --lr.")
    if longest < 1:
        raise UserError(f"Answers of at most {longest} word pieces cannot be.", "Take --longest 30, or 1 at least.")
    before = read_pretrained(from_, length)
    files = {split: str(path.resolve()) for split, path in squad_files(data, dev=dev).items()}
    questions = {split: read_squad(files[split]) for split in ("train", "dev")}
    silence = any(not one.answers for one in questions["train"])
    if not silence and any(not one.answers for one in questions["dev"]):
        raise UserError(
            f"{files['dev']} has questions without an answer, and {files['train']} has none to learn silence from.",
            "Take the two files of one version of SQuAD.",
        )
    sizes = {"length": length, "stride": stride, "question_length": question_length}
    windows = SpanBatches(questions["train"], before.corpus.pieces, max(1, batch_size), **sizes)
    passes = EPOCHS if epochs is None else epochs
    baseline = Hyperparameters(
        lr=LR, global_batch_size=BATCH, warmup_samples=WARMUP * passes * len(windows), betas=(0.9, 0.999)
    )
    settings, notes = scaled(baseline, batch_size, rule, lr)
    rates: dict[str, Any] = {"lr": settings.lr, "betas": settings.betas}
    total = math.ceil(passes * len(windows) / batch_size) * batch_size
    if settings.warmup_samples > total / 2:
        notes.append(f"a warm-up of {settings.warmup_samples:,.0f} windows is cut to half the run, {total / 2:,.0f}")
    found = sum(row.span != (0, 0) for row in windows.windows)
    notes.append(
        f"{len(questions['train']):,} questions in {len(windows):,} windows, of which {found:,} hold the answer"
        + ("; silence is an answer" if silence else "")
    )
    common: dict[str, Any] = {"tokenizer_of": str(before.corpus.folder.resolve()), **sizes}
    return Run(
        recipe="bert-squad",
        model=partial(BERTSpan, **before.sizes, dropout=dropout),
        task=partial(SpanTask),
        data=partial(span_batches, corpus=files["train"], **common),
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
        evaluate=partial(heldout_answers, corpus=files["dev"], split="dev", longest=longest, silence=silence, **common),
        evaluations=max(1, round(passes)) if evaluations is None else evaluations,
        notes=(*before.notes, *notes),
    )
