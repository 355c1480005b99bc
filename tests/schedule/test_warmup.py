"""Warm-up around anything, re-warm-up after a jump, and phases."""

import math
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.schedule import (
    Progress,
    Schedule,
    constant,
    cosine,
    cosine_restarts,
    exponential,
    inverse_sqrt,
    linear,
    multistep,
    phases,
    polynomial,
    rewarm,
    warmup,
)

CURVES: list[Schedule] = [
    constant,
    linear,
    partial(cosine, end=0.1),
    partial(polynomial, power=3.0),
    partial(cosine_restarts, period_samples=300, multiplier=1.5),
    partial(exponential, gamma=0.9, every_samples=70),
    partial(inverse_sqrt, timescale_samples=100),
]
ALL = [*CURVES, partial(multistep, milestones=(300, 500), gamma=0.5)]


@given(
    curve=st.sampled_from(CURVES),
    samples=st.integers(0, 3000),
    batch=st.integers(1, 500),
    total=st.one_of(st.integers(1, 2000), st.just(math.inf)),
    length=st.integers(0, 1000),
)
@settings(max_examples=300, deadline=None)
def test_around_a_curve_it_is_the_curves_own(
    curve: Callable[..., float], samples: int, batch: int, total: float, length: int
) -> None:
    progress = Progress(samples, batch, total)
    assert warmup(progress, schedule=curve, warmup_samples=length) == curve(progress, warmup_samples=length)


@given(curve=st.sampled_from(ALL), length=st.integers(1, 200), batch=st.integers(1, 20))
@settings(max_examples=200, deadline=None)
def test_where_it_ends_nothing_jumps(curve: Schedule, length: int, batch: int) -> None:
    """It rises by the same amount at each step, arrives at the peak, and goes on from there."""
    run = partial(warmup, schedule=curve, warmup_samples=length)
    rise = [run(Progress(samples, batch, 2000)) for samples in range(0, length, batch)]
    assert rise == pytest.approx([min(1.0, (i + 1) * batch / length) for i in range(len(rise))])
    assert rise[-1] == 1.0
    after = run(Progress(len(rise) * batch, batch, 2000))
    # the first step after it is less than one step down the curve
    assert curve(Progress(batch, batch, 2000 - length)) <= after <= 1.0


def test_around_a_function_of_ones_own() -> None:
    seen = []

    def own(progress: Progress) -> float:
        seen.append(progress)
        return 0.5

    assert warmup(Progress(10, 10, 100), schedule=own, warmup_samples=40) == 0.25
    assert warmup(Progress(70, 10, 100), schedule=own, warmup_samples=40) == 0.5
    assert seen == [Progress(0, 10, 60), Progress(30, 10, 60)]


@given(curve=st.sampled_from(ALL), at=st.integers(0, 1000), length=st.integers(0, 500), samples=st.integers(0, 2000))
@settings(max_examples=300, deadline=None)
def test_rewarming_touches_only_the_rise(curve: Schedule, at: int, length: int, samples: int) -> None:
    progress = Progress(samples, 10, 2000)
    factor = rewarm(progress, schedule=curve, at_samples=at, warmup_samples=length)
    if at <= samples and samples + 10 < at + length:
        assert factor == pytest.approx(curve(progress) * (samples + 10 - at) / length)
    else:
        assert factor == curve(progress)


def test_two_jumps() -> None:
    once = partial(rewarm, schedule=constant, at_samples=40, warmup_samples=20)
    twice = partial(rewarm, schedule=once, at_samples=80, warmup_samples=40)
    got = [twice(Progress(samples, 10, 200)) for samples in range(0, 140, 10)]
    assert got == [1, 1, 1, 1, 0.5, 1, 1, 1, 0.25, 0.5, 0.75, 1, 1, 1]


def test_bert_in_two_phases() -> None:
    """NVIDIA's LAMB: 7038 steps of 64K with 2000 of warm-up, then 1563 of 32K with 200, at 6e-3 and 4e-3."""
    one, two = 7038 * 65_536, 1563 * 32_768
    bert = partial(
        phases,
        schedules=(
            partial(polynomial, power=0.5, warmup_samples=2000 * 65_536),
            partial(polynomial, power=0.5, warmup_samples=200 * 32_768),
        ),
        boundaries=(one,),
        peaks=(1.0, 4e-3 / 6e-3),
    )
    rates = [6e-3 * bert(Progress(step * 65_536, 65_536, one + two)) for step in (0, 1999, 2000, 7037)]
    assert rates == pytest.approx([6e-3 / 2000, 6e-3, 6e-3, 6e-3 * math.sqrt(1 / 5038)])
    rates = [6e-3 * bert(Progress(one + step * 32_768, 32_768, one + two)) for step in (0, 199, 200, 1562)]
    assert rates == pytest.approx([4e-3 / 200, 4e-3, 4e-3, 4e-3 * math.sqrt(1 / 1363)])
    assert bert(Progress(one + two, 32_768, one + two)) == 0.0


def test_phases_see_their_own_stretch() -> None:
    seen: list[Progress] = []

    def own(progress: Progress) -> float:
        seen.append(progress)
        return 1.0

    three = partial(phases, schedules=(own, own, own), boundaries=(100, 300))
    for samples in (0, 99, 100, 299, 300, 450):
        assert three(Progress(samples, 10, 400)) == 1.0
    assert [(p.samples, p.total) for p in seen] == [(0, 100), (99, 100), (0, 200), (199, 200), (0, 100), (150, 100)]
    assert three(Progress(350, 10, 200)) == 1.0  # a run that ends before its last phase, and goes on
    assert seen[-1] == Progress(50, 10, 0)
