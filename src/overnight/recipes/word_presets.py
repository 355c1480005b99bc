"""Baselines of the word language models, by name. Which of them were run, and how, stands in docs/results.md."""

from dataclasses import dataclass, field, replace

QUIRKS = {
    "loss-times-steps": "the loss is summed over the steps of a window and averaged over lanes",
    "clip-recurrent-only": "only the recurrent layers' gradients are clipped",
    "embedding-gradient-times-batch": "the embedding's gradient is multiplied by the batch of one GPU, 128",
    "ema-recurrent-only": "only the recurrent layers' weights are averaged; the rest is evaluated as it is",
}
"""What f-lm's code does beside what its paper says, by name."""
GPU_BATCH = 128
"""Lanes of one GPU in f-lm, by which it multiplies the embedding's gradient."""


@dataclass(frozen=True)
class WordPreset:
    """One published or tuned baseline: every other batch is derived from it.

    Attributes:
        about: what it is for.
        model: ``lstm``, ``rnn`` or ``fnn``.
        embedding_size, hidden_size, layers, projection, dropout, forget_bias, init_range, gates, output: of the model.
        context: words that a feed-forward model sees.
        batch, length: lanes of one update, and words a lane and update.
        optimizer, lr: its name, and the rate at that batch.
        max_norm: of clipping.
        epochs: budget unless another is given.
        constant_epochs, decay: after so many epochs the rate is multiplied by ``decay`` at the start of each; 1 never.
        sum_over_time: the loss is summed over the steps of a window, so that rate and norm are those of the paper.
        ema: decay of the weights' average; None keeps none.
        reset: where the state is zeroed.
        quirks: names of ``QUIRKS`` that are on.
    """

    about: str
    model: str
    embedding_size: int
    hidden_size: int
    batch: int
    length: int
    lr: float
    epochs: float
    layers: int = 2
    projection: int | None = None
    dropout: float = 0.0
    forget_bias: float = 0.0
    init_range: float | None = None
    gates: str = "dense"
    output: str = "full"
    context: int = 4
    optimizer: str = "sgd"
    max_norm: float | None = 5.0
    constant_epochs: int = 0
    decay: float = 1.0
    sum_over_time: bool = True
    ema: float | None = None
    reset: str = "never"
    quirks: tuple[str, ...] = field(default=())


# Zaremba et al. 2014, sections 4.1: sizes, initialisation, dropout, rates; batch 20, plain SGD, rate 1.
_SMALL = WordPreset(
    "Zaremba et al.'s small model: 115 perplexity on the Penn Treebank's test split",
    "lstm", 200, 200, batch=20, length=20, lr=1.0, epochs=13, init_range=0.1, constant_epochs=4, decay=0.5,
)  # fmt: skip
_MEDIUM = replace(
    _SMALL, about="their medium model: 83", embedding_size=650, hidden_size=650, length=35, epochs=39,
    dropout=0.5, init_range=0.05, constant_epochs=6, decay=1 / 1.2,
)  # fmt: skip
_LARGE = replace(
    _SMALL, about="their large model: 78", embedding_size=1500, hidden_size=1500, length=35, epochs=55,
    dropout=0.65, init_range=0.04, constant_epochs=14, decay=1 / 1.15, max_norm=10.0,
)  # fmt: skip

# Kuchaiev & Ginsburg 2017 as coded in f-lm, after Jozefowicz et al. 2016; 8 GPUs of 128 lanes.
_BIGLSTM = WordPreset(
    "BIGLSTM on One Billion Word; with --gates grouped:2 or factorized:512 its cheaper relatives",
    "lstm", 1024, 8192, batch=1024, length=20, lr=0.2, epochs=5, projection=1024, dropout=0.1, forget_bias=1.0,
    output="sampled:8192", optimizer="adagrad", max_norm=1.0, ema=0.999, quirks=tuple(QUIRKS),
)  # fmt: skip

PRESETS = {
    "ptb-small": _SMALL,
    "ptb-medium": _MEDIUM,
    "ptb-large": _LARGE,
    "wsj-lstm": replace(
        _SMALL, about="one layer of 128 units, two epochs: for comparing softmaxes and samplers in minutes",
        embedding_size=128, hidden_size=128, layers=1, epochs=2, constant_epochs=1,
    ),
    "wsj-rnn": replace(
        _SMALL, about="a plain recurrent network, of the kind whose gradients Xiao et al. 2017 sample",
        model="rnn", layers=1, lr=0.2, epochs=6, constant_epochs=3,
    ),
    "wsj-fnn": replace(
        _SMALL, about="a feed-forward model of four words of context (Bengio et al. 2003)",
        model="fnn", embedding_size=100, layers=1, lr=0.5, epochs=6, constant_epochs=3, reset="sentence",
    ),
    "lm1b": _BIGLSTM,
    "lm1b-small": replace(
        _BIGLSTM, about="LSTM-2048-512 of Jozefowicz et al. 2016 on One Billion Word: 47.5 in their table",
        embedding_size=512, hidden_size=2048, layers=1, projection=512,
    ),
}  # fmt: skip
