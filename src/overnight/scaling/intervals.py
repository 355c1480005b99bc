"""Intervals for what is measured: Student's quantile, and a ratio of sums by the blocked jackknife."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_SMALL = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646)
_NORMAL = 1.959964


def t_quantile(degrees_of_freedom: float) -> float:
    """The 97.5 % point of Student's t, so that ± it is a 95 % interval.

    A table up to 7 degrees of freedom, and above it the Cornish–Fisher expansion (Abramowitz and Stegun 26.7.5), which
    there is right to three decimals.

    Raises:
        ValueError: below one degree of freedom.

    >>> [round(t_quantile(n), 2) for n in (1, 5, 15, 100)]
    [12.71, 2.57, 2.13, 1.98]
    """
    if not degrees_of_freedom >= 1:
        raise ValueError(f"A t quantile needs at least one degree of freedom, not {degrees_of_freedom!r}.")
    if degrees_of_freedom < len(_SMALL) + 1:
        return _SMALL[math.floor(degrees_of_freedom) - 1]
    z, n = _NORMAL, degrees_of_freedom
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3


def ratio_interval(numerators: npt.ArrayLike, denominators: npt.ArrayLike) -> tuple[Any, Any, Any]:
    """Σ numerators / Σ denominators over blocks, with a 95 % interval by the delete-one-block jackknife.

    The jackknife runs on the angle atan2(Σ numerators, Σ denominators) and its ends are turned back into ratios: a
    denominator that noise takes to 0 or below then gives an upper end of infinity and keeps a finite lower end. Choose
    units in which the ratio is not far from 1 on the scale that matters. Künsch 1989; Busing et al. 1999.

    Args:
        numerators: sums over blocks that are long enough to be independent, [blocks] or [blocks, …].
        denominators: of the same shape.

    Returns:
        The ratio (infinite where the denominator is not above 0, at least 0), the lower and the upper end, each of
        shape […]. With fewer than three blocks the interval is from 0 to infinity.

    >>> value, low, high = ratio_interval([4.0, 4.4, 3.6, 4.0], [2.0, 2.0, 2.0, 2.0])
    >>> round(float(value), 2), round(float(low), 2), round(float(high), 2)
    (2.0, 1.76, 2.29)
    """
    top, bottom = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    blocks = len(top)
    total_top, total_bottom = top.sum(0), bottom.sum(0)
    angle = np.arctan2(total_top, total_bottom)
    if blocks < 3:
        half = np.full_like(angle, math.pi)
    else:
        without = np.arctan2(total_top - top, total_bottom - bottom)
        error = np.sqrt((blocks - 1) / blocks * np.square(without - without.mean(0)).sum(0))
        half = t_quantile(blocks - 1) * error
    return _ratio(angle), _ratio(angle - half), _ratio(angle + half)


def _ratio(angle: Array) -> Array:
    held = np.clip(angle, 0.0, math.pi / 2)
    return np.where(held >= math.pi / 2, math.inf, np.tan(held))
