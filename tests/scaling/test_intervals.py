"""Student's quantile against its own distribution, and the jackknife of a ratio against what it must cover."""

import math

import numpy as np
import pytest

from overnight.scaling.intervals import ratio_interval, t_quantile


@pytest.mark.parametrize(
    ("degrees", "value"), [(1, 12.7062), (2, 4.30265), (7, 2.36462), (8, 2.30600), (15, 2.13145), (60, 2.00030)]
)
def test_quantiles_of_student(degrees: int, value: float) -> None:
    assert t_quantile(degrees) == pytest.approx(value, rel=1e-3)


def test_no_quantile_without_degrees_of_freedom() -> None:
    with pytest.raises(ValueError, match="at least one degree"):
        t_quantile(0)


@pytest.mark.parametrize("ratio", [0.2, 1.0, 30.0])
def test_the_interval_covers_the_ratio(ratio: float) -> None:
    """95 % of 400 draws, give or take three standard deviations of a binomial (3 · 1.1 %)."""
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        bottom = 1.0 + 0.4 * random.standard_normal(16)
        top = ratio * (1.0 + 0.4 * random.standard_normal(16))
        _, low, high = ratio_interval(top, bottom)
        covered += bool(low <= ratio <= high)
    assert 0.917 <= covered / 400 <= 0.983


def test_a_denominator_lost_in_noise_leaves_a_lower_end() -> None:
    random = np.random.default_rng(1)
    value, low, high = ratio_interval(1.0 + 0.01 * random.standard_normal(16), 0.3 * random.standard_normal(16))
    assert math.isinf(high)
    assert 1.0 < low < value


def test_few_blocks_say_nothing() -> None:
    value, low, high = ratio_interval([2.0, 2.0], [1.0, 1.0])
    assert (value, low, high) == (pytest.approx(2.0), 0.0, math.inf)
