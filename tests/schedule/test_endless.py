"""Restarts, milestones, exponential and inverse square root: known values, bounds, continuity, monotony."""

import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.schedule import Progress, Schedule, cosine_restarts, exponential, inverse_sqrt, multistep

ENDLESS: list[Schedule] = [
    partial(cosine_restarts, period_samples=300),
    partial(cosine_restarts, period_samples=100, multiplier=2, end=0.1),
    partial(multistep, milestones=(200, 300, 301.5), gamma=0.5),
    partial(multistep, milestones=()),
    partial(exponential, gamma=0.94, every_samples=70),
    partial(exponential, gamma=0.5, every_samples=50, start_samples=400, staircase=True),
    partial(inverse_sqrt, timescale_samples=50),
]
FALLING = ENDLESS[2:]


def at(samples: float, batch: float = 10) -> Progress:
    return Progress(samples, batch, math.inf)


@given(
    schedule=st.sampled_from(ENDLESS),
    samples=st.floats(0, 1e9),
    batch=st.floats(1, 1e6),
    warmup=st.floats(0, 400),
)
@settings(max_examples=300, deadline=None)
def test_a_factor_is_always_between_0_and_1(
    schedule: Callable[..., float], samples: float, batch: float, warmup: float
) -> None:
    assert 0.0 <= schedule(at(samples, batch), warmup_samples=warmup) <= 1.0


@given(schedule=st.sampled_from(FALLING), warmup=st.floats(0, 400), ahead=st.lists(st.floats(0, 1e7), min_size=2))
@settings(max_examples=200, deadline=None)
def test_after_the_warm_up_only_restarts_rise(
    schedule: Callable[..., float], warmup: float, ahead: list[float]
) -> None:
    factors = [schedule(at(warmup + samples), warmup_samples=warmup) for samples in sorted(ahead)]
    assert all(later <= earlier for earlier, later in itertools.pairwise(factors))


@given(schedule=st.sampled_from(ENDLESS), total=st.floats(0, 1e9), samples=st.floats(0, 1e7))
@settings(deadline=None)
def test_the_length_of_the_run_does_not_matter(schedule: Schedule, total: float, samples: float) -> None:
    assert schedule(Progress(samples, 8, total)) == schedule(Progress(samples, 8, math.inf))


def test_restarts_come_back_at_exactly_their_sample() -> None:
    """SGDR with T_0 = 10 and T_mult = 2: restarts at 10, 30, 70, 150."""
    factor = partial(cosine_restarts, period_samples=10, multiplier=2, end=0.25)
    for start, length in ((0, 10), (10, 20), (30, 40), (70, 80), (150, 160)):
        assert factor(at(start)) == 1.0
        assert factor(at(start + length / 2)) == pytest.approx(0.625)
        assert factor(at(start + length - 1e-6)) == pytest.approx(0.25)
    assert cosine_restarts(at(10**12), period_samples=10) == 1.0
    # 1.5 to a power is exact in binary: 4, 6, 9 long
    assert [cosine_restarts(at(s), period_samples=4, multiplier=1.5) for s in (4, 10, 19)] == [1.0, 1.0, 1.0]


def test_milestones_count_from_the_beginning_of_the_run() -> None:
    """Goyal et al. 2017: ÷ 10 at epochs 30, 60, 80, the 5 epochs of warm-up included."""
    epoch = 1_281_167
    goyal = partial(multistep, milestones=(30 * epoch, 60 * epoch, 80 * epoch), warmup_samples=5 * epoch)
    got = [goyal(at(e * epoch, 8192)) for e in (5, 29, 30, 59, 60, 79, 80, 89)]
    assert got == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize(("held", "decay"), [(4, 0.5), (14, 1 / 1.15)])
def test_the_penn_treebank_recipes(held: int, decay: float) -> None:
    """decay ** max(epoch + 1 - held, 0) with epochs from 0, as the TensorFlow tutorial has it."""
    epoch = 929_589
    factor = partial(exponential, gamma=decay, every_samples=epoch, start_samples=(held - 1) * epoch, staircase=True)
    for index in range(20):
        for part in (0, 0.5, 0.999):
            assert factor(at((index + part) * epoch)) == pytest.approx(decay ** max(index + 1 - held, 0))


@given(half=st.floats(1, 1e6), samples=st.floats(0, 1e7), warmup=st.floats(0, 1e6))
@settings(deadline=None)
def test_a_half_life_halves(half: float, samples: float, warmup: float) -> None:
    factor = partial(exponential, gamma=0.5, every_samples=half, warmup_samples=warmup)
    now, later = factor(at(warmup + samples)), factor(at(warmup + samples + half))
    assert later == pytest.approx(now / 2, rel=1e-6, abs=1e-300)


@given(warmup=st.integers(1, 10**6), times=st.floats(1, 1e4))
@settings(deadline=None)
def test_inverse_sqrt_is_the_transformers(warmup: int, times: float) -> None:
    """Vaswani et al. 2017, eq. 3, divided by its peak: min(s / W, √(W / s))."""
    assert inverse_sqrt(at(warmup * times), warmup_samples=warmup) == pytest.approx(times**-0.5)
    step = max(1, warmup // 7)
    assert inverse_sqrt(Progress(0, step, math.inf), warmup_samples=warmup) == pytest.approx(step / warmup)


def test_inverse_sqrt_with_a_timescale_of_its_own() -> None:
    factor = partial(inverse_sqrt, timescale_samples=100, warmup_samples=20)
    assert [factor(at(samples)) for samples in (0, 10, 20, 320)] == pytest.approx([0.5, 1, 1, 0.5])
