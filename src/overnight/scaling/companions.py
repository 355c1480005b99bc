"""What goes along with the rate from batch B to k·B: betas, ε, weight decay, clip, batch statistics, weight average.

Each is a pure function of k, with the bounds that keep it from leaving the range in which it was seen to work.
"""

import math
from collections.abc import Iterable
from numbers import Real

from overnight.scaling.gain import gain

BETA_FLOORS = (0.6, 0.9)
"""About where tuners stop: MLPerf's BERT submissions from batch 4608 on have β₁ from 0.62 to 0.88, β₂ 0.79 to 0.925."""
TRUST_RATIO_K, TRUST_RATIO_SPREAD = 16.0, 10.0


def adam_betas(
    betas: tuple[float, float], k: float, *, floors: tuple[float, float] = BETA_FLOORS
) -> tuple[float, float]:
    """β₂ᵏ and β₁ to the √k, not below the floors: the second moment forgets after as many samples as before.

    β₂ᵏ keeps its half-life in samples (Marek et al. 2025, arXiv 2507.07101) and does to first order what the Adam SDE
    rule does, 1 − k (1 − β) (Malladi et al. 2022, arXiv 2205.10287), without its end at k (1 − β) = 1. β₁ goes half way
    in the exponent, since it also damps the step: between β₁, which LEGW and LAMB keep, and β₁ᵏ. A beta that is below
    its floor already stays.

    Raises:
        ValueError: for betas outside 0 to 1 or a k that is not above 0.

    >>> [round(beta, 4) for beta in adam_betas((0.9, 0.999), 16)]
    [0.6561, 0.9841]
    >>> adam_betas((0.9, 0.999), 1024)
    (0.6, 0.9)
    """
    _checked(k=k)
    if not all(0 <= beta < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers from 0 to below 1, not {betas!r}.")
    first, second = betas
    return max(first ** math.sqrt(k), min(first, floors[0])), max(second**k, min(second, floors[1]))


def momentum(value: float, k: float) -> float:
    """SGD's momentum stays. Kumar et al. 2019 (arXiv 1909.09756) raised it above 0.9 from 32K on, by tuning.

    >>> momentum(0.9, 64)
    0.9
    """
    _checked(k=k)
    return value


def adam_eps(eps: float, k: float) -> float:
    """ε / √k: noise in √v̂ falls so. Malladi et al. 2022 (arXiv 2205.10287).

    >>> adam_eps(1e-8, 4)
    5e-09
    """
    _checked(k=k)
    return eps / math.sqrt(k)


def decoupled_weight_decay(
    weight_decay: float, k: float, *, lr_factor: float | None = None, samples_factor: float = 1.0
) -> float:
    """wd · k / (lr factor · samples factor): keeps lr · wd · steps, so the weights' shrinking over the run.

    With the rate · √k and the samples as they were, that is wd · √k. Wang and Aitchison 2024 (arXiv 2405.13698): what
    counts is the timescale 1 / (lr · wd) in epochs.

    Args:
        weight_decay: decoupled, as in AdamW: the step takes lr · wd · w.
        k: new batch / old batch.
        lr_factor: on the peak rate; √k unless given.
        samples_factor: on the samples of the run.

    >>> decoupled_weight_decay(0.01, 16)
    0.04
    """
    factor = math.sqrt(k) if lr_factor is None else lr_factor
    _checked(k=k, lr_factor=factor, samples_factor=samples_factor)
    return weight_decay * k / (factor * samples_factor)


def max_norm(value: float, noise_scale: float, global_batch_size: float, k: float) -> float:
    """c / √r = c √((|G|² + tr(Σ)/(k·B)) / (|G|² + tr(Σ)/B)): falls as the norm does, so clipping is as frequent.

    r is the ``gain``. A fixed bound would clip ever less as noise falls, which raises the effective rate unseen.

    >>> max_norm(1.0, math.inf, 100, 16)
    0.25
    """
    return value / math.sqrt(gain(noise_scale, global_batch_size, k))


def ghost_batch_size(statistics_batch_size: int, local_batch_size: int) -> int:
    """Samples over which batch normalisation takes its statistics: the baseline's, however large the batch becomes.

    Ghost batches: Hoffer et al. 2017 (arXiv 1705.08741).

    Args:
        statistics_batch_size: samples that shared their statistics in the baseline.
        local_batch_size: samples of a rank's forward at the new batch.

    Returns:
        The largest number up to the baseline's that divides ``local_batch_size``.

    >>> ghost_batch_size(256, 4096), ghost_batch_size(256, 96), ghost_batch_size(256, 1000)
    (256, 96, 250)
    """
    for name, size in (("statistics_batch_size", statistics_batch_size), ("local_batch_size", local_batch_size)):
        if size % 1 != 0 or size < 1:
            raise ValueError(f"{name} must be a whole number of at least 1, not {size!r}.")
    return next(
        size for size in range(min(statistics_batch_size, local_batch_size), 0, -1) if not local_batch_size % size
    )


def ema_decay(decay: float, k: float) -> float:
    """decayᵏ: an average of the weights keeps its half-life in samples. Busbridge et al. 2023 (arXiv 2307.13813).

    >>> round(ema_decay(0.999, 8), 6)
    0.992028
    """
    _checked(k=k)
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be a number from 0 to below 1, not {decay!r}.")
    return float(decay**k)


def wants_trust_ratio(k: float, relative_steps: Iterable[float] = ()) -> bool:
    """Whether layers are so unlike in ‖Δw‖/‖w‖, or the jump is so large, that LARS's or LAMB's ratio is worth its risk.

    From k = 16 on, or where the layers' relative steps spread over more than a factor of 10: below it plain momentum
    and Adam did as well when they were tuned (Nado et al. 2021, arXiv 2102.06356).

    Args:
        k: new batch / old batch.
        relative_steps: ‖Δw‖/‖w‖ of each layer that could be adapted; zeros are left out.

    >>> wants_trust_ratio(4), wants_trust_ratio(64), wants_trust_ratio(4, [1e-4, 2e-3])
    (False, True, True)
    """
    _checked(k=k)
    steps = [step for step in relative_steps if step > 0]
    return k >= TRUST_RATIO_K or bool(steps and max(steps) > TRUST_RATIO_SPREAD * min(steps))


def _checked(**settings: float) -> None:
    for name, value in settings.items():
        if not (isinstance(value, Real) and math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a number above 0, not {value!r}.")
