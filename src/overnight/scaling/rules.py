"""From a tuned baseline at batch B to batch k·B: pure rules, each with the sentence that explains it.

Every rule takes the baseline and either k or the new batch, keeps what its paper does not touch, and works for k < 1
as for k > 1. None of them is a law: docs/scaling.md says when each fails.
"""

import math
from dataclasses import dataclass, replace
from numbers import Real

from overnight.scaling import companions
from overnight.scaling.gain import gain
from overnight.scaling.hyperparameters import Hyperparameters

__all__ = [
    "Hyperparameters",
    "Scaled",
    "adam_sde",
    "adascale",
    "capped_linear",
    "date",
    "legw",
    "linear",
    "none",
    "sqrt",
]

LONGEST_WARMUP = 0.3
"""Share of a run; the longest warm-up of a published large-batch BERT was 28.43 % of its phase (NVIDIA, batch 64K)."""


@dataclass(frozen=True)
class Scaled:
    """The hyper-parameters at the new batch, and why they are so.

    Attributes:
        hyperparameters: the full set at the new batch.
        baseline: the set it comes from.
        k: new batch / old batch.
        explanation: one sentence: old values, new values, rule, source.
    """

    hyperparameters: Hyperparameters
    baseline: Hyperparameters
    k: float
    explanation: str


def none(baseline: Hyperparameters, k: float | None = None, *, global_batch_size: int | None = None) -> Scaled:
    """Only the batch changes: what a larger batch does to a recipe that nobody adapts.

    Args:
        baseline: tuned at its batch.
        k: new batch / old batch; or
        global_batch_size: the new batch.

    Raises:
        ValueError: if not exactly one of the two is given, or k times the batch is no whole number of samples.

    >>> none(Hyperparameters(lr=0.1, global_batch_size=32), 4).explanation
    'Batch 32 → 128 (k = 4), no rule: all else stays.'
    """
    k, batch = _factor(baseline, k, global_batch_size)
    return _explained(baseline, k, replace(baseline, global_batch_size=batch), "no rule", {})


def linear(baseline: Hyperparameters, k: float | None = None, *, global_batch_size: int | None = None) -> Scaled:
    """lr · k: k small steps in one (Krizhevsky 2014; Goyal et al. 2017, arXiv 1706.02677). Arguments as for ``none``.

    >>> linear(Hyperparameters(lr=0.1, global_batch_size=256), global_batch_size=8192).hyperparameters.lr
    3.2
    """
    k, batch = _factor(baseline, k, global_batch_size)
    scaled = replace(baseline, lr=baseline.lr * k, global_batch_size=batch)
    return _explained(baseline, k, scaled, "the linear rule (Goyal et al. 2017)", {"lr": "· k"})


def sqrt(baseline: Hyperparameters, k: float | None = None, *, global_batch_size: int | None = None) -> Scaled:
    """lr · √k: keeps the variance of an update (Krizhevsky 2014; Hoffer et al. 2017, arXiv 1705.08741). Arguments as
    for ``none``.

    >>> sqrt(Hyperparameters(lr=0.1, global_batch_size=256), 4).hyperparameters.lr
    0.2
    """
    k, batch = _factor(baseline, k, global_batch_size)
    scaled = replace(baseline, lr=baseline.lr * math.sqrt(k), global_batch_size=batch)
    return _explained(baseline, k, scaled, "the square-root rule (Krizhevsky 2014)", {"lr": "· √k"})


def capped_linear(
    baseline: Hyperparameters, k: float | None = None, *, global_batch_size: int | None = None, cap: float = 3e-3
) -> Scaled:
    """min(lr · k, cap): the 40 GB paper's rule, with lr = 5e-4 at batch 128. Other arguments as for ``none``.

    Puri et al. 2018 (arXiv 1808.01371): linear scaling does not hold at all batch sizes, hence the cap.

    >>> paper = Hyperparameters(lr=5e-4, global_batch_size=128)
    >>> [capped_linear(paper, k).hyperparameters.lr for k in (2, 256)]
    [0.001, 0.003]
    """
    k, batch = _factor(baseline, k, global_batch_size)
    if not (math.isfinite(cap) and cap > 0):
        raise ValueError(f"cap must be a number above 0, not {cap!r}.")
    scaled = replace(baseline, lr=min(baseline.lr * k, cap), global_batch_size=batch)
    return _explained(baseline, k, scaled, "the capped linear rule (Puri et al. 2018)", {"lr": f"· k, at most {cap:g}"})


def legw(baseline: Hyperparameters, k: float | None = None, *, global_batch_size: int | None = None) -> Scaled:
    """lr · √k and warm-up epochs · k, hence the same number of warm-up steps; the decay stays where it is in epochs.

    Linear-epoch gradual warm-up: You et al. 2019 (arXiv 1901.08256). Arguments as for ``none``.

    Raises:
        ValueError: also if the warm-up becomes longer than the run.

    >>> scaled = legw(Hyperparameters(lr=0.1, global_batch_size=128, warmup_samples=12800), 4)
    >>> print(scaled.explanation)  # doctest: +NORMALIZE_WHITESPACE
    Batch 128 → 512 (k = 4), LEGW (You et al. 2019): lr 0.1 → 0.2 (· √k), warm-up 12,800 → 51,200 samples (· k,
    100 → 100 steps); all else stays.
    """
    k, batch = _factor(baseline, k, global_batch_size)
    scaled = replace(
        baseline,
        lr=baseline.lr * math.sqrt(k),
        warmup_samples=baseline.warmup_samples * k,
        global_batch_size=batch,
    )
    return _explained(baseline, k, scaled, "LEGW (You et al. 2019)", {"lr": "· √k", "warmup_samples": "· k"})


def adam_sde(baseline: Hyperparameters, k: float | None = None, *, global_batch_size: int | None = None) -> Scaled:
    """lr · √k, 1 - β · k for both betas, ε / √k: the same stochastic differential equation at another batch.

    Malladi et al. 2022 (arXiv 2205.10287), the square-root scaling rule for Adam. Arguments as for ``none``.

    Raises:
        ValueError: also without betas, and where k (1 - β) ≥ 1: the moment would forget more than it holds.

    >>> scaled = adam_sde(Hyperparameters(lr=1e-3, global_batch_size=64, betas=(0.9, 0.999), eps=1e-8), 4)
    >>> [round(beta, 6) for beta in scaled.hyperparameters.betas], scaled.hyperparameters.eps
    ([0.6, 0.996], 5e-09)
    """
    k, batch = _factor(baseline, k, global_batch_size)
    if baseline.betas is None:
        raise ValueError("The Adam SDE rule scales the betas, and the baseline has none.")
    for beta in baseline.betas:
        if k * (1.0 - beta) >= 1.0 - 1e-9:  # 10 (1 - 0.9) is a rounding below 1
            raise ValueError(
                f"The Adam SDE rule does not reach k = {k:g} from a beta of {beta:g}: k (1 - beta) is "
                f"{k * (1.0 - beta):.3g}, and must be below 1, so k below {1.0 / (1.0 - beta):.4g}."
            )
    first, second = (1.0 - k * (1.0 - beta) for beta in baseline.betas)
    scaled = replace(
        baseline,
        lr=baseline.lr * math.sqrt(k),
        betas=(first, second),
        eps=None if baseline.eps is None else baseline.eps / math.sqrt(k),
        global_batch_size=batch,
    )
    how = {"lr": "· √k", "betas": "1 - β · k", "eps": "/ √k"}
    return _explained(baseline, k, scaled, "the Adam SDE rule (Malladi et al. 2022)", how)


def adascale(
    baseline: Hyperparameters, k: float | None = None, *, global_batch_size: int | None = None, noise_scale: float
) -> Scaled:
    """lr · r with the gain r = (1 + Bn/B) / (1 + Bn/(k·B)); the run has r times fewer steps, so k/r times the samples.

    Johnson et al. 2020 (arXiv 2007.05105), for SGD, with one noise scale for the whole run; AdaScale itself follows it
    step by step, and its schedule advances by r a step. A warm-up is part of that schedule. Other arguments as for
    ``none``.

    Args:
        noise_scale: Bn, in samples, as ``overnight.scaling.noise_scale`` measures it.

    >>> scaled = adascale(Hyperparameters(lr=0.1, global_batch_size=100, total_samples=1e6), 10, noise_scale=1000)
    >>> round(scaled.hyperparameters.lr, 3), round(scaled.hyperparameters.total_samples)
    (0.55, 1818182)
    """
    k, batch = _factor(baseline, k, global_batch_size)
    r = gain(noise_scale, baseline.global_batch_size, k)
    scaled = replace(
        baseline,
        lr=baseline.lr * r,
        warmup_samples=baseline.warmup_samples * k / r,
        total_samples=None if baseline.total_samples is None else baseline.total_samples * k / r,
        global_batch_size=batch,
    )
    how = {"lr": "· r", "warmup_samples": "· k/r", "total_samples": "· k/r"}
    rule = f"AdaScale's gain r = {r:.4g} at a noise scale of {noise_scale:,.0f} (Johnson et al. 2020)"
    return _explained(baseline, k, scaled, rule, how)


def date(
    baseline: Hyperparameters,
    k: float | None = None,
    *,
    global_batch_size: int | None = None,
    noise_scale: float = math.inf,
    adaptive: bool = True,
) -> Scaled:
    """Ours, as a plan: everything that is counted in steps follows the gain r, in the place of k.

    r = (1 + Bn/B) / (1 + Bn/(k·B)) is how many old steps a new one is worth, so

        lr · √r for updates that are normalised (Adam, LAMB, LARS, Muon), lr · r for SGD where the noise is measured
        samples · k/r: the run has r times fewer steps, and lengthens past the noise scale instead of losing quality
        warm-up: the same number of steps (LEGW), at most 30 % of the run
        β₂ʳ, β₁ to the √r, not below 0.6 and 0.9; weight average's decayʳ; ε / √r
        clip / √r, as the gradient's norm, where the noise is measured
        decoupled weight decay · √r, so that lr · decay · steps stays

    With no noise scale measured it is infinite, r = k, and what remains is LEGW with the Adam SDE rule's companions.
    SGD's rate goes with √k then, since · k would be the linear rule; the clip stays, since a gradient with little noise
    would be clipped at every step by / √k.
    Why √r: with the gradient divided by its own norm √(|G|² + tr(Σ)/B), or coordinate by coordinate by √v̂, the best
    rate of SGD, lr_max / (1 + Bn/B), becomes lr_max / √(1 + Bn/B). Other arguments as for ``none``.

    Args:
        noise_scale: Bn, in samples, preconditioned for an Adam-like optimizer; or a critical batch.
        adaptive: the optimizer normalises its update; False for SGD, whose weight decay stays.

    >>> tuned = Hyperparameters(lr=1e-3, global_batch_size=64, warmup_samples=6400, total_samples=1e6, eps=1e-8)
    >>> print(date(tuned, 4, noise_scale=128).explanation)  # doctest: +NORMALIZE_WHITESPACE
    Batch 64 → 256 (k = 4), DATE with a gain r = 2 at a noise scale of 128: lr 0.001 → 0.00141421 (· √r), warm-up
    6,400 → 25,600 samples (· k, at most 30 %, 100 → 100 steps), length 1,000,000 → 2,000,000 samples (· k/r),
    eps 1e-08 → 7.07107e-09 (/ √r); all else stays.
    """
    k, batch = _factor(baseline, k, global_batch_size)
    r = gain(noise_scale, baseline.global_batch_size, k)
    root = adaptive or math.isinf(noise_scale)
    lr_factor = math.sqrt(r) if root else r
    total = None if baseline.total_samples is None else baseline.total_samples * k / r
    warmup = baseline.warmup_samples * k
    if total is not None:
        # a baseline that warms up longer than that keeps its share
        warmup = min(warmup, max(LONGEST_WARMUP * total, baseline.warmup_samples * k / r))
    decay, clip = baseline.weight_decay, baseline.max_norm
    scaled = replace(
        baseline,
        lr=baseline.lr * lr_factor,
        warmup_samples=warmup,
        total_samples=total,
        betas=None if baseline.betas is None else companions.adam_betas(baseline.betas, r),
        eps=None if baseline.eps is None else companions.adam_eps(baseline.eps, r),
        weight_decay=companions.decoupled_weight_decay(decay, r) if decay is not None and adaptive else decay,
        max_norm=clip if clip is None or math.isinf(noise_scale) else clip / math.sqrt(r),
        ema_decay=None if baseline.ema_decay is None else companions.ema_decay(baseline.ema_decay, r),
        global_batch_size=batch,
    )
    how = {
        "lr": "· √r" if root else "· r",
        "warmup_samples": f"· k, at most {LONGEST_WARMUP:.0%}".replace("%", " %"),
        "total_samples": "· k/r",
        "betas": "β₁ to the √r, β₂ʳ",
        "eps": "/ √r",
        "max_norm": "/ √r",
        "ema_decay": "decayʳ",
    } | ({"weight_decay": "· √r"} if adaptive else {})
    scale = "an unmeasured noise scale" if math.isinf(noise_scale) else f"a noise scale of {noise_scale:,.0f}"
    return _explained(baseline, k, scaled, f"DATE with a gain r = {r:.4g} at {scale}", how)


def _factor(baseline: Hyperparameters, k: float | None, global_batch_size: int | None) -> tuple[float, int]:
    if (k is None) == (global_batch_size is None):
        raise ValueError("Give either k or global_batch_size.")
    if k is None:
        assert global_batch_size is not None
        if not isinstance(global_batch_size, Real) or global_batch_size % 1 != 0 or global_batch_size < 1:
            raise ValueError(f"global_batch_size must be a whole number of at least 1, not {global_batch_size!r}.")
        return global_batch_size / baseline.global_batch_size, global_batch_size
    if not (isinstance(k, Real) and math.isfinite(k) and k > 0):
        raise ValueError(f"k must be a number above 0, not {k!r}.")
    batch = round(baseline.global_batch_size * k)
    if batch < 1 or not math.isclose(batch, baseline.global_batch_size * k, rel_tol=1e-9):
        raise ValueError(f"k = {k:g} times batch {baseline.global_batch_size} is no whole number of samples.")
    return k, batch


def _explained(baseline: Hyperparameters, k: float, scaled: Hyperparameters, rule: str, how: dict[str, str]) -> Scaled:
    changes = []
    for name, formula in how.items():
        old, new = getattr(baseline, name), getattr(scaled, name)
        if name == "warmup_samples":
            steps = f"{baseline.warmup_steps:,} → {scaled.warmup_steps:,} steps"
            changes.append(f"warm-up {old:,.0f} → {new:,.0f} samples ({formula}, {steps})")
        elif name == "total_samples" and old is not None:
            changes.append(f"length {old:,.0f} → {new:,.0f} samples ({formula})")
        elif old is not None:
            changes.append(f"{name} {_written(old)} → {_written(new)} ({formula})")
    batches = f"Batch {baseline.global_batch_size} → {scaled.global_batch_size} (k = {k:g})"
    what = f"{', '.join(changes)}; all else stays." if changes else "all else stays."
    return Scaled(scaled, baseline, k, f"{batches}, {rule}: {what}")


def _written(value: float | tuple[float, ...]) -> str:
    return f"({', '.join(f'{item:g}' for item in value)})" if isinstance(value, tuple) else f"{value:g}"
