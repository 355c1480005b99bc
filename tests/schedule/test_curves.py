"""Schedules at their landmarks, and what holds for all of them."""

import itertools
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.schedule import Progress, constant, cosine, linear, polynomial

DECAYING = [linear, cosine, polynomial]
ALL = [constant, *DECAYING]
BATCH, TOTAL, WARMUP = 10, 1000, 200
Curve = Callable[..., float]


def at(curve: Curve, samples: float, **settings: Any) -> float:
    return curve(Progress(samples, BATCH, TOTAL), **settings)


@pytest.mark.parametrize("curve", ALL)
def test_warmup_rises_linearly_to_the_peak(curve: Curve) -> None:
    assert at(curve, 0) == 1.0
    factors = [at(curve, samples, warmup_samples=WARMUP) for samples in range(0, WARMUP, BATCH)]
    assert factors == pytest.approx([(step + 1) / 20 for step in range(20)])
    assert at(curve, WARMUP, warmup_samples=WARMUP) == 1.0


@pytest.mark.parametrize(
    ("curve", "middle"),
    [
        (constant, 1.0),
        (linear, 0.5),
        (cosine, 0.5),
        (polynomial, 0.25),
        (partial(polynomial, power=3.0), 0.125),
        (partial(linear, end=0.1), 0.55),
        (partial(cosine, end=0.1), 0.55),
        (partial(polynomial, end=0.1), 0.1 + 0.9 * 0.25),
    ],
)
def test_middle_of_the_decay(curve: Curve, middle: float) -> None:
    assert at(curve, TOTAL / 2) == pytest.approx(middle)
    assert at(curve, (WARMUP + TOTAL) / 2, warmup_samples=WARMUP) == pytest.approx(middle)


def test_a_quarter_of_the_decay_tells_the_curves_apart() -> None:
    quarter = [at(curve, TOTAL / 4) for curve in ALL]
    assert quarter == pytest.approx([1.0, 0.75, (1 + math.cos(math.pi / 4)) / 2, 0.5625])


@pytest.mark.parametrize("curve", DECAYING)
def test_end_of_the_run(curve: Curve) -> None:
    for samples in (TOTAL, TOTAL + 5 * BATCH):
        assert at(curve, samples, warmup_samples=WARMUP) == pytest.approx(0.0, abs=1e-15)
        assert at(curve, samples, end=0.1) == pytest.approx(0.1)
        assert at(constant, samples, warmup_samples=WARMUP) == 1.0


@pytest.mark.parametrize("curve", ALL)
@pytest.mark.parametrize("warmup", [TOTAL, TOTAL + 1, 10 * TOTAL])
def test_a_warmup_longer_than_the_run_still_moves_the_weights(curve: Curve, warmup: int) -> None:
    factors = [at(curve, samples, warmup_samples=warmup) for samples in range(0, TOTAL, BATCH)]
    assert factors == pytest.approx([(step + 1) * BATCH / warmup for step in range(TOTAL // BATCH)])
    assert min(factors) > 0


@pytest.mark.parametrize("curve", DECAYING)
def test_a_horizon_replaces_the_length_of_the_run(curve: Curve) -> None:
    longer = Progress(400, BATCH, 4 * TOTAL)
    assert at(curve, 400, horizon_samples=4 * TOTAL) == pytest.approx(curve(longer))
    assert at(curve, 300, horizon_samples=TOTAL / 2) == pytest.approx(curve(Progress(300, BATCH, TOTAL / 2)))
    assert at(curve, TOTAL / 2, horizon_samples=TOTAL / 2) == pytest.approx(0.0, abs=1e-15)
    assert curve(Progress(400, BATCH, math.inf), horizon_samples=TOTAL) == pytest.approx(at(curve, 400))


@pytest.mark.parametrize("curve", ALL)
def test_while_the_length_is_unknown_nothing_decays(curve: Curve) -> None:
    endless = [curve(Progress(samples, BATCH, math.inf), warmup_samples=WARMUP) for samples in (0, 100, 10**9)]
    assert endless == pytest.approx([0.05, 0.55, 1.0])


@given(
    curve=st.sampled_from(ALL),
    batch=st.integers(1, 512),
    steps=st.integers(1, 60),
    warmup=st.integers(0, 40_000),
    horizon=st.none() | st.integers(0, 40_000),
    end=st.floats(0, 1),
)
def test_factors_are_between_0_and_1_and_never_rise_after_the_warmup(
    curve: Curve, batch: int, steps: int, warmup: int, horizon: int | None, end: float
) -> None:
    settings = {} if curve is constant else {"horizon_samples": horizon, "end": end}
    factors = {
        samples: curve(Progress(samples, batch, steps * batch), warmup_samples=warmup, **settings)
        for samples in range(0, (steps + 2) * batch, batch)
    }
    assert all(0.0 <= factor <= 1.0 for factor in factors.values())
    after = [factor for samples, factor in factors.items() if samples >= warmup]
    assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(after))
