"""Baselines of the translator, by name. Which of them were run, and how, stands in docs/results.md."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GNMTPreset:
    """One baseline: every other batch is derived from it.

    Attributes:
        about: what it is for.
        hidden_size, layers, dropout, shared, init_range, attention_gain: of the model; ``layers`` of the encoder and
            of the decoder.
        smoothing: of the labels.
        batch: pairs of one update.
        lr: Adam's rate at that batch.
        warmup_steps: at that batch.
        max_norm: of clipping.
        betas, eps: Adam's.
        epochs: budget unless another is given.
        remain, drops, factor: the rate is multiplied by ``factor`` at ``remain`` of the run for the first time, and
            ``drops`` times in all, evenly to its end.
        evaluations: over the run.
    """

    about: str
    hidden_size: int
    layers: int
    dropout: float
    shared: bool
    batch: int
    lr: float
    warmup_steps: int
    epochs: float
    evaluations: int
    smoothing: float = 0.1
    init_range: float = 0.1
    attention_gain: float | None = None
    max_norm: float = 5.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    remain: float = 2 / 3
    drops: int = 4
    factor: float = 0.5


PRESETS = {
    # Chosen so that ten epochs are about fifteen minutes of one core; not tuned. The warm-up is short, since LEGW keeps
    # its steps, and at batch 4,096 ten epochs are 70 steps.
    "multi30k": GNMTPreset(
        "29,000 captions, German to English: ten epochs on one core",
        hidden_size=256, layers=3, dropout=0.3, shared=False, batch=128, lr=1.5e-3, warmup_steps=25, epochs=10,
        evaluations=10, attention_gain=1.0,
    ),
    # Sizes, dropout, smoothing, clipping, decay: NVIDIA's GNMT v2, MLPerf's. Rate: LEGW's 2^-0.5 · 1e-3 at batch 256,
    # which is MLPerf's 2e-3 at 2,048 by the square-root rule; warm-up: 200 steps in both.
    "gnmt": GNMTPreset(
        "the published 4 + 4 layers of 1,024 units on WMT16 English to German: 21.8 BLEU after two epochs",
        hidden_size=1024, layers=4, dropout=0.2, shared=True, batch=256, lr=2**-0.5 * 1e-3, warmup_steps=200, epochs=2,
        evaluations=8,
    ),
}  # fmt: skip
