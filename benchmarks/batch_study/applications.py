"""What is trained: one recipe each, with optimizers whose rate alone is open.

All but rate, warm-up and batch is declared here, once for all batches. Norms of images are over 64 of them whatever the
batch, and the training images are the same for tuning and after it, so that a batch changes nothing else.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from overnight.evaluate.masked import heldout_masked
from overnight.optim import LARS
from overnight.optim.norm_groups import norm_groups
from overnight.recipes.alexnet import alexnet
from overnight.recipes.bert import bert
from overnight.recipes.resnet import resnet
from overnight.train.run import Run

OPTIMIZERS = ("lars", "lamb", "momentum", "adamw")
"""``momentum`` is Nesterov's."""
PLAIN = 1 / 40
"""Of the rate of LARS, for norms and biases, which have no trust ratio of about a thousandth."""
MOST_AT_ONCE = 256
"""Samples of a forward pass; the result is the same."""
HELD_OUT = 5000
"""Training images that are scored in tuning, and never trained on."""


@dataclass(frozen=True)
class Setting:
    """One training run.

    Attributes:
        optimizer: its name.
        batch: samples of an update.
        lr: peak rate.
        warmup_steps: updates over which it rises.
        samples: length of the run.
        seed: of weights, order and what is drawn.
        tuning: score on what is held out for that, not on the test split.
    """

    optimizer: str
    batch: int
    lr: float
    warmup_steps: int
    samples: int
    seed: int
    tuning: bool

    @property
    def steps(self) -> int:
        """Updates of the run."""
        return max(1, self.samples // self.batch)


@dataclass(frozen=True)
class Application:
    """A model, its data, and a ladder of batches.

    Attributes:
        name: of its folder.
        about: a line for the table.
        base: batch at which rates are tuned.
        batches: the ladder.
        samples: of every run.
        warmup_steps: at every batch.
        centres: rates at which tuning begins.
        metric: of the evaluation.
        run: (setting, folder of the data) → run.
    """

    name: str
    about: str
    base: int
    batches: tuple[int, ...]
    samples: int
    warmup_steps: int
    centres: Mapping[str, float]
    metric: str
    run: Callable[[Setting, Path], Run]


def cifar_run(setting: Setting, data: Path) -> Run:
    """ResNet-8 on CIFAR-10's images."""
    run = resnet(data, preset="cifar-small", norm="ghost:64", **_image_settings(setting, 50_000))
    return _scored_on(run.with_setting("model.width=8"), setting)


def mnist_run(setting: Setting, data: Path) -> Run:
    """AlexNet-BN with a quarter of the small preset's widths, on MNIST."""
    run = alexnet(data, preset="cifar-small-bn", norm="ghost:64", augment=False, **_image_settings(setting, 60_000))
    for changed in ("widths=(8, 16, 24, 24, 16)", "hidden=64", "dropout=0.0"):
        run = run.with_setting(f"model.{changed}")
    return _scored_on(run, setting)


def _image_settings(setting: Setting, images: int) -> dict[str, Any]:
    return {
        "optimizer": setting.optimizer,
        "batch_size": setting.batch,
        "micro_batch_size": min(setting.batch, MOST_AT_ONCE),
        "lr": setting.lr,
        "warmup_epochs": setting.warmup_steps * setting.batch / (images - HELD_OUT),
        "steps": setting.steps,
        "valid": HELD_OUT,
        "evaluations": 1,
        "seed": setting.seed,
    }


def _scored_on(run: Run, setting: Setting) -> Run:
    return run.with_setting(f"evaluate.split={'valid' if setting.tuning else 'test'}")


def bert_run(setting: Setting, corpus: Path, *, length: int, rows: int) -> Run:
    """BERT-tiny on sentences of a prepared corpus, one segment a sequence; no dropout, as nothing is seen twice."""
    known = setting.optimizer if setting.optimizer in ("lamb", "adamw") else "lamb"
    run = bert(
        corpus, batch_size=setting.batch, micro_batch_size=min(setting.batch, MOST_AT_ONCE), lr=setting.lr,
        optimizer=known, warmup_steps=setting.warmup_steps, steps=setting.steps, length=length, next_sentence=False,
        dropout=0.0, evaluations=1, seed=setting.seed,
    )  # fmt: skip
    if setting.optimizer == "lars":
        groups = partial(norm_groups, weight_decay=1e-4, plain_lr=setting.lr * PLAIN)
        run = replace(run, optimizer=partial(LARS, lr=setting.lr, momentum=0.9), param_groups=groups)
    elif setting.optimizer == "momentum":
        chosen = partial(torch.optim.SGD, lr=setting.lr, momentum=0.9, nesterov=True)
        run = replace(run, optimizer=chosen, param_groups=partial(norm_groups, weight_decay=1e-4))
    assert run.evaluate is not None
    return _scored_on(replace(run, evaluate=partial(first_rows, **{**run.evaluate.keywords, "rows": rows})), setting)


def first_rows(**settings: Any) -> dict[str, Any]:
    """``heldout_masked`` of so many rows at the end too."""
    return heldout_masked(**{**settings, "final": False})


CENTRES = {"lars": 4.0, "lamb": 0.01, "momentum": 0.1, "adamw": 0.002}
"""Of the presets; that of momentum for BERT is a guess."""
APPLICATIONS = {
    one.name: one
    for one in (
        Application(
            "cifar", "ResNet-8 of width 8 on CIFAR-10 as JPEG", 64, (64, 256, 1024, 4096), 24_576, 8, CENTRES,
            "accuracy", cifar_run,
        ),
        Application(
            "mnist", "a narrow AlexNet-BN on MNIST", 64, (64, 256, 1024, 4096), 32_768, 8, CENTRES,
            "accuracy", mnist_run,
        ),
        Application(
            "bert", "BERT-tiny on film reviews, sequences of 32 word pieces", 32, (32, 128, 512, 1024), 12_288, 16,
            CENTRES, "masked_accuracy", partial(bert_run, length=32, rows=3000),
        ),
    )
}  # fmt: skip
