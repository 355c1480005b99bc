"""Published ladders: the rate and the warm-up of each batch, as their authors had them (sources: docs/images.md)."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Rung:
    """One batch of a ladder.

    Attributes:
        batch: images of one update.
        lr: peak rate.
        warmup_epochs: length of the warm-up.
        epochs: length of the run; None for the ladder's.
        settings: of the optimizer at this batch.
        weight_decay: at this batch; None for the baseline's.
    """

    batch: int
    lr: float
    warmup_epochs: float
    epochs: float | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    weight_decay: float | None = None


@dataclass(frozen=True)
class Ladder:
    """Rungs of one optimizer; what they do not say is that optimizer's baseline in the preset.

    Attributes:
        optimizer: name of the baseline.
        rungs: by rising batch.
        epochs: length of the run.
        settings: of the optimizer, in the place of the baseline's.
    """

    optimizer: str
    rungs: tuple[Rung, ...]
    epochs: float
    settings: dict[str, Any] = field(default_factory=dict)


def _mlperf(batch: int, lr: float, warmup: float, epochs: float, momentum: float, decay: float) -> Rung:
    return Rung(batch, lr, warmup, epochs, {"momentum": momentum}, decay)


RESNET50 = {
    # LEGW's authors' lab, 90 epochs; by LEGW throughout, but for the warm-up at 32,768, where the rule says 10 epochs.
    # Their code has the rate and the ratio outside the momentum, which is momentum_placement="scaled".
    "legw": Ladder(
        "lars",
        (
            Rung(512, 2.0**2, 10 / 2**6),
            Rung(1024, 2.0**2.5, 10 / 2**5),
            Rung(4096, 2.0**3.5, 10 / 2**3),
            Rung(8192, 2.0**4, 10 / 2**2),
            Rung(16384, 2.0**4.5, 5.0),
            Rung(32768, 2.0**5, 14.0, settings={"eps": 0.0}),
        ),
        epochs=90,
        settings={"momentum_placement": "scaled", "eps": 1e-5},
    ),
    # The LAMB paper's ladder that nobody tuned: 4 / (2^j · 100), and the same 782 steps of warm-up at every batch.
    "lamb": Ladder(
        "lamb",
        tuple(Rung(512 << place, 4 / (2 ** (3 - place / 2) * 100), 0.3125 * 2**place) for place in range(7)),
        epochs=90,
    ),
    # The LARS paper: only the rates of these two are known to us; 5 epochs of warm-up, decay 1e-4.
    "lars": Ladder("lars", (Rung(16384, 2.5, 5.0), Rung(32768, 2.9, 5.0)), epochs=90, settings={"eps": 0.0}),
    # MLPerf's reference convergence points to 75.9 %: tuned at each batch. Virtual batches: --norm ghost:V.
    "mlperf": Ladder(
        "lars",
        (
            _mlperf(1632, 7.4, 2, 35.0, 0.9, 5e-5),
            _mlperf(3264, 10.5, 2, 35.2, 0.9, 5e-5),
            _mlperf(4096, 10.0, 5, 40.0, 0.9, 2e-4),
            _mlperf(8192, 17.0, 5, 42.0, 0.9, 2e-4),
            _mlperf(13056, 12.8, 9, 45.4, 0.9, 2.5e-5),
            _mlperf(32768, 21.2, 16, 56.0, 0.94, 2.5e-5),
            _mlperf(49152, 19.405, 24, 68.0, 0.951807, 1e-4),
            _mlperf(58880, 23.246, 29, 79.9, 0.951807, 1e-4),
            _mlperf(65536, 24.699, 31, 84.5, 0.951807, 1e-4),
            _mlperf(67840, 24.699, 31, 85.9, 0.951807, 1e-4),
        ),
        epochs=90,
        settings={"eps": 0.0},
    ),
}
"""Ladders of ResNet-50 on ImageNet."""

ALEXNET = {
    # The LARS paper. Neither the warm-up nor the number of epochs is known to us: 5 and 100 are ours.
    "lars": Ladder(
        "lars", (Rung(512, 2.0, 5.0), Rung(4096, 10.0, 5.0), Rung(8192, 10.0, 5.0), Rung(16384, 14.0, 5.0)), epochs=100
    ),
}
"""Ladders of AlexNet on ImageNet."""
