"""How much of a k times larger batch a step gains, from the gradient noise scale."""

import math
from numbers import Real


def gain(noise_scale: float, global_batch_size: float, k: float) -> float:
    """r = (1 + Bn/B) / (1 + Bn/(k·B)): steps at batch B that one step at batch k·B is worth.

    Between 1 and k: k while noise dominates (Bn far above k·B), 1 where it does not (B far above Bn). With Bn from
    tr(Σ) / |G|² it is AdaScale's gain (Johnson et al. 2020, arXiv 2007.05105) for a mean of k batches, and k/r is what
    E(B) = Emin (1 + B/Bn) of McCandlish et al. 2018 says that the samples grow by.

    Args:
        noise_scale: Bn, in samples; 0 for no noise, infinite for nothing but noise.
        global_batch_size: B, in samples.
        k: new batch / old batch; below 1, r is between k and 1.

    Raises:
        ValueError: for numbers that cannot be.

    >>> gain(1000, 100, 10), gain(math.inf, 100, 10), gain(0, 100, 10)
    (5.5, 10.0, 1.0)
    """
    _checked(noise_scale, global_batch_size, k)
    if math.isinf(noise_scale):
        return float(k)
    ratio = noise_scale / global_batch_size
    return (1.0 + ratio) / (1.0 + ratio / k)


def surge(noise_scale: float, global_batch_size: float) -> float:
    """lr*(B) / lr_max = 2 / (√(Bn/B) + √(B/Bn)): the best rate of Adam and of sign descent, in units of its maximum.

    It grows as √B below the noise scale, is 1 at it, and falls above it. Li et al. 2024 (arXiv 2405.14578).

    Args:
        noise_scale: Bn, in samples, of what the optimizer sees: the preconditioned one.
        global_batch_size: B, in samples.

    >>> surge(400, 400), surge(400, 100) == surge(400, 1600)
    (1.0, True)
    """
    _checked(noise_scale, global_batch_size, 1.0)
    if noise_scale == 0 or math.isinf(noise_scale):
        return 0.0
    root = math.sqrt(noise_scale / global_batch_size)
    return 2.0 / (root + 1.0 / root)


def surge_gain(noise_scale: float, global_batch_size: float, k: float, *, falling: bool = False) -> float:
    """The factor on an Adam-like rate from batch B to k·B by the surge: √k far below the noise scale.

    Past the noise scale the rate is held at its maximum rather than lowered, unless ``falling``: the noise scale grows
    as training goes on, and with it the place of the maximum. Arguments as for ``gain``.

    >>> round(surge_gain(1e6, 10, 16), 3), round(surge_gain(100, 100, 16), 3)
    (3.999, 1.0)
    >>> round(surge_gain(100, 100, 16, falling=True), 3)
    0.471
    """
    _checked(noise_scale, global_batch_size, k)
    if math.isinf(noise_scale):
        return math.sqrt(k)
    if noise_scale == 0:
        return 1.0 / math.sqrt(k) if falling else 1.0
    new, old = (
        surge(noise_scale, batch if falling else min(batch, noise_scale))
        for batch in (global_batch_size * k, global_batch_size)
    )
    return new / old


def _checked(noise_scale: float, global_batch_size: float, k: float) -> None:
    if not isinstance(noise_scale, Real) or not noise_scale >= 0:
        raise ValueError(f"noise_scale must be a number of samples of at least 0, not {noise_scale!r}.")
    for name, value in (("global_batch_size", global_batch_size), ("k", k)):
        if not (isinstance(value, Real) and math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a number above 0, not {value!r}.")
