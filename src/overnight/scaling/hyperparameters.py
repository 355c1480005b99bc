"""What a rule scales: the hyper-parameters that were tuned at one batch."""

import math
from dataclasses import dataclass
from numbers import Real

_NUMBERS = {"lr": True, "global_batch_size": True, "warmup_samples": True} | dict.fromkeys(
    ("total_samples", "momentum", "eps", "weight_decay", "max_norm", "ema_decay"), False
)
"""Fields that are a number, and whether each must be set."""


@dataclass(frozen=True)
class Hyperparameters:
    """A tuned set at one batch. What the optimizer does not have, or nobody set, is None.

    Attributes:
        lr: peak rate.
        global_batch_size: samples of one optimizer step, over all ranks and micro-batches.
        warmup_samples: samples over which the rate rises; 0 for none.
        total_samples: of the whole run.
        betas: Adam's.
        eps: Adam's.
        momentum: SGD's.
        weight_decay: as the optimizer has it.
        max_norm: to which the gradient's norm is clipped.
        ema_decay: of an average of the weights, a step.

    Raises:
        ValueError: for numbers that cannot be.

    >>> tuned = Hyperparameters(lr=0.1, global_batch_size=256, warmup_samples=5120)
    >>> tuned.warmup_steps
    20
    """

    lr: float
    global_batch_size: int
    warmup_samples: float = 0
    total_samples: float | None = None
    betas: tuple[float, float] | None = None
    eps: float | None = None
    momentum: float | None = None
    weight_decay: float | None = None
    max_norm: float | None = None
    ema_decay: float | None = None

    def __post_init__(self) -> None:
        for name, required in _NUMBERS.items():
            value = getattr(self, name)
            unset = value is None and not required
            if not unset and (isinstance(value, bool) or not isinstance(value, Real)):
                raise ValueError(f"{name} must be a number, not {value!r}.")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be a number above 0, not {self.lr!r}.")
        if self.global_batch_size % 1 != 0 or self.global_batch_size < 1:
            raise ValueError(f"global_batch_size must be a whole number of at least 1, not {self.global_batch_size!r}.")
        if not (math.isfinite(self.warmup_samples) and self.warmup_samples >= 0):
            raise ValueError(f"warmup_samples must be a number of at least 0, not {self.warmup_samples!r}.")
        if self.total_samples is not None and not self.total_samples > 0:
            raise ValueError(f"total_samples must be a number above 0, not {self.total_samples!r}.")
        if self.total_samples is not None and self.warmup_samples > self.total_samples:
            raise ValueError(
                f"A warm-up of {self.warmup_samples:,.0f} samples is longer than the run of {self.total_samples:,.0f}."
            )
        if self.betas is not None and not (
            isinstance(self.betas, (tuple, list)) and len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        ):
            raise ValueError(f"betas must be two numbers from 0 to below 1, not {self.betas!r}.")
        for name in ("momentum", "ema_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} must be a number from 0 to below 1, not {value!r}.")
        if self.max_norm is not None and not self.max_norm > 0:
            raise ValueError(f"max_norm must be a number above 0, not {self.max_norm!r}.")
        for name in ("eps", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a number of at least 0, not {value!r}.")

    @property
    def warmup_steps(self) -> int:
        """Updates of the warm-up, the last one perhaps in part."""
        return _steps(self.warmup_samples, self.global_batch_size)

    @property
    def total_steps(self) -> int | None:
        """Updates of the whole run, the last one perhaps in part."""
        return None if self.total_samples is None else _steps(self.total_samples, self.global_batch_size)


def _steps(samples: float, batch: int) -> int:
    # a product of floats may lie a rounding above the whole number that it means
    return math.ceil(round(samples / batch, 6))
