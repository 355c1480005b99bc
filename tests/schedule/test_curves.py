"""Schedules: values where they are known, never rising after the warm-up, and harmless at odd lengths."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.schedule import Progress, constant, cosine, linear, polynomial

Curve = Callable[..., float]
DECAYING: list[Curve] = [linear, cosine, polynomial]
ALL: list[Curve] = [constant, *DECAYING]


def walk(curve: Curve, total: float, batch: int = 10, **how: Any) -> list[float]:
    """The factor of every step of a run."""
    return [curve(Progress(samples, batch, total), **how) for samples in range(0, int(total), batch)]


@pytest.mark.parametrize(
    ("curve", "how", "expected"),
    [
        (constant, {}, [1.0, 1.0, 1.0]),
        (linear, {}, [1.0, 0.5, 0.0]),
        (linear, {"end": 0.2}, [1.0, 0.6, 0.2]),
        (cosine, {}, [1.0, 0.5, 0.0]),
        (cosine, {"end": 0.1}, [1.0, 0.55, 0.1]),
        (polynomial, {}, [1.0, 0.25, 0.0]),
        (polynomial, {"power": 3.0, "end": 0.5}, [1.0, 0.5625, 0.5]),
        (polynomial, {"power": 1.0}, [1.0, 0.5, 0.0]),
    ],
)
def test_start_middle_and_end(curve: Curve, how: dict[str, float], expected: list[float]) -> None:
    got = [curve(Progress(samples, 10, 1000), **how) for samples in (0, 500, 1000)]
    assert got == pytest.approx(expected, abs=1e-15)
    assert curve(Progress(1500, 10, 1000), **how) == pytest.approx(expected[-1], abs=1e-15)


def test_cosine_is_not_linear_at_a_quarter() -> None:
    assert cosine(Progress(250, 10, 1000)) == pytest.approx((1 + math.sqrt(0.5)) / 2)


@pytest.mark.parametrize("curve", ALL)
def test_warm_up_rises_in_a_line_and_ends_at_the_peak(curve: Curve) -> None:
    factors = walk(curve, 200, warmup_samples=50)
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert max(factors) == factors[4]
    # the decay runs over the 150 samples that are left: at 125 it is half done
    middle = curve(Progress(125, 10, 200), warmup_samples=50)
    assert middle == pytest.approx({constant: 1.0, linear: 0.5, cosine: 0.5, polynomial: 0.25}[curve])


@pytest.mark.parametrize("curve", ALL)
def test_the_first_step_moves_even_with_a_warm_up(curve: Curve) -> None:
    assert curve(Progress(0, 1, 100), warmup_samples=50) == pytest.approx(1 / 50)


@pytest.mark.parametrize("curve", ALL)
def test_a_warm_up_longer_than_the_run_goes_on_rising(curve: Curve) -> None:
    factors = walk(curve, 100, warmup_samples=1000)
    assert factors == pytest.approx([(i + 1) / 100 for i in range(10)])


@pytest.mark.parametrize("curve", ALL)
def test_a_warm_up_as_long_as_the_run(curve: Curve) -> None:
    assert walk(curve, 100, warmup_samples=100) == pytest.approx([(i + 1) / 10 for i in range(10)])


@pytest.mark.parametrize("curve", DECAYING)
def test_while_the_length_is_unknown_nothing_decays(curve: Curve) -> None:
    assert curve(Progress(10**9, 10, math.inf)) == 1.0
    assert curve(Progress(30, 10, math.inf), warmup_samples=100) == pytest.approx(0.4)


@pytest.mark.parametrize("curve", DECAYING)
def test_a_horizon_counts_whatever_the_length(curve: Curve) -> None:
    for total in (50, 1000, 10**6, math.inf):
        assert curve(Progress(400, 10, total), horizon_samples=800) == curve(Progress(400, 10, 800))
    assert curve(Progress(900, 10, 10**6), horizon_samples=800) == pytest.approx(0.0, abs=1e-15)


def test_the_papers_large_batch_schedule() -> None:
    """Above batch 2048: linear over 100,000 steps, so a run of 2,500 steps ends at 97.5 % of its peak."""
    batch = 32_768
    factor = linear(Progress(2_500 * batch, batch, 2_500 * batch), horizon_samples=100_000 * batch)
    assert factor == pytest.approx(0.975)


@given(
    curve=st.sampled_from(DECAYING),
    total=st.floats(1, 1e9),
    warmup=st.floats(0, 1e9),
    batch=st.floats(1, 1e6),
    end=st.floats(0, 1),
    at=st.lists(st.floats(0, 2e9), min_size=2, max_size=10),
)
@settings(max_examples=300, deadline=None)
def test_after_the_warm_up_the_factor_never_rises(
    curve: Curve, total: float, warmup: float, batch: float, end: float, at: list[float]
) -> None:
    factors = [curve(Progress(s, batch, total), end=end, warmup_samples=warmup) for s in sorted(at) if s >= warmup]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(factors))
    assert all(end - 1e-12 <= factor <= 1 + 1e-12 for factor in factors)


@given(
    curve=st.sampled_from(ALL),
    total=st.one_of(st.floats(0, 1e9), st.just(math.inf)),
    warmup=st.floats(0, 1e9),
    batch=st.floats(1, 1e6),
    samples=st.floats(0, 2e9),
)
@settings(max_examples=300, deadline=None)
def test_a_factor_is_always_between_0_and_1(
    curve: Curve, total: float, warmup: float, batch: float, samples: float
) -> None:
    factor = curve(Progress(samples, batch, total), warmup_samples=warmup)
    assert 0.0 <= factor <= 1.0


@given(curve=st.sampled_from(ALL), k=st.sampled_from([2, 4, 8]), step=st.integers(0, 99))
@settings(deadline=None)
def test_a_larger_batch_sees_the_same_curve(curve: Curve, k: int, step: int) -> None:
    """Schedules are in samples: after the same samples the decay is the same, whatever the batch."""
    small = curve(Progress(80 * step, 10, 8000), warmup_samples=0)
    assert curve(Progress(80 * step, 10 * k, 8000), warmup_samples=0) == small
