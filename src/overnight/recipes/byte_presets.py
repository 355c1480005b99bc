"""Baselines of the byte language model, by name. Which of them were measured, and how, stands in docs/results.md."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Preset:
    """One tuned baseline: every other batch is derived from it.

    Attributes:
        about: what it is for.
        hidden_size, embedding_size: of the model.
        batch, length: lanes of one update, and bytes a lane and update.
        lr: peak rate at that batch.
        rule: how the rate follows the batch: a name in ``overnight.scaling.rules``, or ``paper``.
        warmup_steps: at that batch; the recipe holds the warm-up in samples.
        beta2: Adam's second beta.
        init, forget_bias: of the cell.
        epochs, minutes: budget unless another is given.
        tuned: peak rates of other optimizers at that batch, by name.
    """

    about: str
    hidden_size: int
    batch: int
    length: int
    lr: float
    embedding_size: int = 64
    rule: str = "sqrt"
    warmup_steps: int = 100
    beta2: float = 0.99
    init: str = "orthogonal"
    forget_bias: float = 1.0
    epochs: float | None = None
    minutes: float | None = None
    tuned: Mapping[str, float] = field(default_factory=dict)


def _paper(hidden_size: int, about: str) -> Preset:
    # Puri et al. 2018: Adam with default betas, 5e-4 a batch of 128 capped at 3e-3, no warm-up, plain initialisation.
    return Preset(
        about, hidden_size, batch=128, length=256, lr=5e-4, rule="paper", warmup_steps=0, beta2=0.999,
        init="uniform", forget_bias=0.0, epochs=1.0,
    )  # fmt: skip


PRESETS = {
    "laptop": Preset(
        "a first model in three minutes on two CPU cores",
        512,
        32,
        64,
        5e-3,
        minutes=3.0,
        tuned={"lamb": 0.02, "lars": 20.0},
    ),
    "ten-minutes": Preset("the best model that ten minutes on two CPU cores buy", 768, 32, 64, 4e-3, minutes=10.0),
    "512": Preset("one epoch of the laptop model", 512, 32, 64, 4e-3, epochs=1.0),
    "1024": Preset("half an hour on two CPU cores", 1024, 32, 64, 3e-3, minutes=30.0),
    "2048": Preset("between the small ones and the paper's; not tuned", 2048, 128, 256, 1e-3, epochs=1.0),
    "4096": _paper(4096, "the paper's model: 86,319,360 parameters"),
    "8192": _paper(8192, "the paper's larger model: 340,394,240 parameters"),
}
