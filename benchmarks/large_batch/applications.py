"""What is trained: four LSTM applications at their base batch, and a fifth that nothing is tuned on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from benchmarks.large_batch.optimizers import with_optimizer
from benchmarks.large_batch.windows import WindowedWordTask
from overnight.evaluate.training import heldout_record
from overnight.evaluate.translation import heldout_pairs
from overnight.evaluate.words import heldout_words
from overnight.recipes.byte_lm import byte_lm
from overnight.recipes.gnmt import gnmt
from overnight.recipes.mnist_lstm import mnist_lstm
from overnight.recipes.word_lm import word_lm
from overnight.train.components import Component
from overnight.train.run import Run


@dataclass(frozen=True)
class Choice:
    """What is chosen of a run at the base batch.

    Attributes:
        optimizer: a name in ``optimizers.OPTIMIZERS``.
        lr: peak rate.
        warmup_steps: at the base batch.
        epochs: length.
        seed: of weights and data.
        trial: evaluate on what is held out of the training data, and not on the test data.
        windows: of text models: consecutive windows of every lane in one update, in the place of more lanes.
    """

    optimizer: str
    lr: float
    warmup_steps: int
    epochs: float
    seed: int = 0
    trial: bool = False
    windows: int = 1


@dataclass(frozen=True, eq=False)
class Application:
    """One application.

    Attributes:
        name: on the command line.
        corpus: what ``--data`` must be.
        batch: at which it is tuned.
        batches: larger ones, up to the published largest.
        beyond: larger than published.
        epochs: of a run.
        metric: key of an evaluation.
        higher: of two values of the metric the higher is the better.
        target: published; None where there is none.
        margin: what may be lost against our own base batch.
        relative: the margin is a share of the value, else points of it.
        optimizer: of the baseline.
        rates: of each optimizer at the base batch. ``tune`` starts there; without it they are the baseline.
        warmup_steps: at the base batch.
        trials, trial_epochs: the budget of ``tune`` for one optimizer, and of the oracle at one batch.
        micro: samples of one micro-batch, at most.
        make: (corpus, choice) → the run at the base batch.
        gpu: too long for a CPU.
        words: lanes are streams of text, so there is the control with their number fixed.
        tuned: False for the application that is kept out of all tuning.
    """

    name: str
    corpus: str
    batch: int
    batches: tuple[int, ...]
    beyond: tuple[int, ...]
    epochs: float
    metric: str
    higher: bool
    target: float | None
    margin: float
    relative: bool
    optimizer: str
    rates: Mapping[str, float]
    warmup_steps: int
    trials: int
    trial_epochs: float
    micro: int
    make: Callable[[Path, Choice], Run]
    gpu: bool = False
    words: bool = False
    tuned: bool = True


def _mnist(corpus: Path, choice: Choice) -> Run:
    run = mnist_lstm(
        corpus,
        lr=choice.lr,
        warmup_steps=choice.warmup_steps,
        epochs=choice.epochs,
        valid=10_000 if choice.trial else 0,
        evaluations=round(choice.epochs) or 1,
        seed=choice.seed,
    )
    return with_optimizer(run, choice.optimizer, choice.lr)


PTB_EPOCHS = {"ptb-small": 13.0, "ptb-large": 55.0}


def _ptb(preset: str, corpus: Path, choice: Choice) -> Run:
    """The published decay, compressed where a run is shorter than published."""
    made = word_lm(
        corpus,
        preset=preset,
        lr=choice.lr,
        # any other optimizer than RowSGD makes gradients dense, as all of ours take them
        optimizer="sgd" if choice.optimizer == "sgd" else "adam",
        length=None if choice.windows == 1 else choice.windows * (20 if preset == "ptb-small" else 35),
        epochs=choice.epochs,
        evaluations=round(choice.epochs) or 1,
        seed=choice.seed,
    )
    run = with_optimizer(made, choice.optimizer, choice.lr)
    schedule = _compressed(run.schedule, choice.epochs / PTB_EPOCHS[preset])
    warmup = float(choice.warmup_steps * run.global_batch_size)
    start = max(warmup, schedule.keywords["start_samples"])
    schedule = partial(schedule.func, **{**schedule.keywords, "warmup_samples": warmup, "start_samples": start})
    held_out = partial(heldout_words, corpus=str(corpus.resolve()), split="valid" if choice.trial else "test")
    run = replace(run, schedule=schedule, evaluate=held_out, baselines=None)
    if choice.windows == 1:
        return run
    # the recipe's note is of a sum over the whole length
    return replace(run, task=partial(WindowedWordTask, windows=choice.windows, **run.task.keywords), notes=())


def _compressed(schedule: Component, factor: float) -> Component:
    positions = {
        name: value * factor for name, value in schedule.keywords.items() if name in ("every_samples", "start_samples")
    }
    return partial(schedule.func, **{**schedule.keywords, **positions})


def _gnmt(preset: str, corpus: Path, choice: Choice) -> Run:
    made = gnmt(corpus, preset=preset, lr=choice.lr, epochs=choice.epochs, seed=choice.seed)
    assert made.evaluate is not None
    settings = {**made.evaluate.keywords, "split": "valid" if choice.trial else "test"}
    if choice.trial:
        settings["bleu"] = False
    warmup = float(choice.warmup_steps * made.global_batch_size)
    schedule = partial(made.schedule.func, **{**made.schedule.keywords, "warmup_samples": warmup})
    run = replace(made, evaluate=partial(heldout_pairs, **settings), schedule=schedule)
    return with_optimizer(run, choice.optimizer, choice.lr)


def _bytes(corpus: Path, choice: Choice) -> Run:
    made = byte_lm(
        corpus, preset="512", lr=choice.lr, epochs=choice.epochs, warmup_steps=choice.warmup_steps, seed=choice.seed
    )
    run = with_optimizer(made, choice.optimizer, choice.lr)
    held_out = partial(heldout_record, corpus=str(corpus.resolve()), split="valid")
    return replace(run, evaluate=held_out, sample=None, baselines=None)


APPLICATIONS = {
    app.name: app
    for app in (
        Application(
            "mnist-lstm", "the folder of MNIST's four idx files",
            batch=128, batches=(512, 2048, 8192), beyond=(60_000,), epochs=25,
            metric="accuracy", higher=True, target=0.987, margin=0.001, relative=False,
            # tuned at batch 128 on 10,000 held-out training images: docs/mnist_lstm.md
            optimizer="momentum", rates={"momentum": 0.4, "lamb": 0.01, "lars": 5.0, "nesterov": 0.4, "adam": 2e-3},
            warmup_steps=64, trials=6, trial_epochs=5, micro=1024, make=_mnist,
        ),
        Application(
            "ptb-small", "the Penn Treebank, made by `overnight prepare --words`",
            batch=20, batches=(80, 320, 640), beyond=(1280,), epochs=PTB_EPOCHS["ptb-small"],
            metric="perplexity", higher=False, target=116.0, margin=0.01, relative=True,
            # Zaremba et al. 2014; the others are first guesses
            optimizer="sgd", rates={"sgd": 1.0, "lamb": 0.01, "lars": 5.0, "momentum": 0.1, "nesterov": 0.1,
                                    "adam": 2e-3},
            warmup_steps=40, trials=5, trial_epochs=2, micro=1280, make=partial(_ptb, "ptb-small"), words=True,
        ),
        Application(
            "ptb-large", "the Penn Treebank, made by `overnight prepare --words`",
            batch=20, batches=(80, 320, 640), beyond=(1280,), epochs=PTB_EPOCHS["ptb-large"],
            metric="perplexity", higher=False, target=78.0, margin=0.01, relative=True,
            optimizer="sgd", rates={"sgd": 1.0, "lamb": 0.01, "lars": 5.0, "momentum": 0.1, "nesterov": 0.1,
                                    "adam": 1e-3},
            warmup_steps=40, trials=5, trial_epochs=6, micro=1280, make=partial(_ptb, "ptb-large"), gpu=True,
            words=True,
        ),
        Application(
            "gnmt-multi30k", "Multi30k, made by `overnight prepare --pairs`",
            batch=128, batches=(512, 2048), beyond=(4096,), epochs=10,
            metric="bleu", higher=True, target=None, margin=0.3, relative=False,
            # 1.5e-3 was seen to be too low at batch 128, by perplexity after 113 steps: docs/results.md
            optimizer="adam", rates={"adam": 5e-3, "lamb": 0.01, "lars": 5.0, "nesterov": 0.5},
            warmup_steps=25, trials=6, trial_epochs=3, micro=256, make=partial(_gnmt, "multi30k"),
        ),
        Application(
            "gnmt-wmt16", "WMT16 English to German, made by `overnight prepare --pairs --joint`",
            batch=256, batches=(1024, 4096), beyond=(8192, 16_384), epochs=2,
            metric="bleu", higher=True, target=21.8, margin=0.3, relative=False,
            optimizer="adam", rates={"adam": 2**-0.5 * 1e-3, "lamb": 0.005, "lars": 5.0, "nesterov": 0.2},
            warmup_steps=200, trials=5, trial_epochs=0.25, micro=1024, make=partial(_gnmt, "gnmt"), gpu=True,
        ),
        Application(
            "byte-lm", "bytes, made by `overnight prepare`",
            batch=32, batches=(128, 512), beyond=(1024,), epochs=1,
            metric="bits_per_byte", higher=False, target=None, margin=0.01, relative=True,
            # the presets' rates, from before this benchmark
            optimizer="adam", rates={"adam": 4e-3, "lamb": 0.02, "lars": 20.0, "nesterov": 0.5},
            warmup_steps=100, trials=6, trial_epochs=0.2, micro=512, make=_bytes, words=True, tuned=False,
        ),
    )
}  # fmt: skip
