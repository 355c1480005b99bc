"""Accuracy on SST-2 after pre-training at each batch, and without any."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.batch_study.cells import make
from overnight.recipes.bert_classify import bert_classify
from overnight.train.run import Run

EPOCHS, LR, LENGTH = 2.0, 4e-4, 64
"""Of AdamW at batch 32, the same for all checkpoints; not tuned."""


def finetune(out: Path, pretrained: str | None, vocabulary: Path, sst2: Path, seed: int, device: str) -> dict[str, Any]:
    """Fine-tune one checkpoint.

    Args:
        out: folder of the study.
        pretrained: name of the cell of ``bert``; None for weights as they are drawn.
        vocabulary: any run of BERT on that corpus.
        sst2: folder of the three csv files.
        seed: of the new layer and the order, and of the weights where none are taken.
        device: see ``Options``.
    """
    name = pretrained or "none"
    folder = out / "sst2" / (name if pretrained else f"none-{seed}")

    def run() -> Run:
        made = bert_classify(
            sst2 / "train_binary_sent.csv", from_=out / "bert" / name if pretrained else vocabulary,
            dev=sst2 / "dev_binary_sent.csv", test=sst2 / "test_binary_sent.csv", lr=LR, epochs=EPOCHS, length=LENGTH,
            evaluations=1, seed=seed,
        )  # fmt: skip
        made = made.with_setting("evaluate.split=test")
        return made if pretrained else replace(made, start=None)

    arm, batch = (pretrained.rsplit("-", 2)[0], int(pretrained.rsplit("-", 2)[1])) if pretrained else ("none", 0)
    said = {
        "application": "sst2", "arm": arm, "batch": batch, "seed": seed, "lr": LR, "tuning": False, "steps": 432,
        "pretrained": pretrained,
    }  # fmt: skip
    return make(folder, "text_accuracy", said, run, device)
