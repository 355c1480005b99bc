"""Settings that cannot work: one sentence that names them, at the first call."""

import math
from functools import partial
from typing import Any

import pytest

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

NOW = Progress(50, 10, 100)
WORKING: list[Any] = [
    constant,
    linear,
    cosine,
    polynomial,
    partial(cosine_restarts, period_samples=10),
    partial(multistep, milestones=(10, 20)),
    partial(exponential, gamma=0.5, every_samples=10),
    partial(inverse_sqrt, timescale_samples=10),
    partial(warmup, schedule=constant),
    partial(rewarm, schedule=constant, at_samples=20),
]


@pytest.mark.parametrize("schedule", WORKING)
@pytest.mark.parametrize("wrong", [-1, math.nan, math.inf, "lots", None, True])
def test_a_warm_up_that_cannot_be(schedule: Schedule, wrong: Any) -> None:
    with pytest.raises(ValueError, match=rf"^warmup_samples must be a number of at least 0, not {wrong!r}\.$"):
        partial(schedule, warmup_samples=wrong)(NOW)


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        (partial(linear, end=-0.1), "end must be a number from 0 to 1, not -0.1"),
        (partial(cosine, end=1.1), "end must be a number from 0 to 1, not 1.1"),
        (partial(polynomial, end=math.nan), "end must be a number from 0 to 1, not nan"),
        (partial(polynomial, power=0), "power must be a number above 0, not 0"),
        (partial(polynomial, power=-2.0), "power must be a number above 0, not -2.0"),
        (partial(linear, horizon_samples=0), "horizon_samples must be a number above 0, not 0"),
        (partial(cosine, horizon_samples=math.nan), "horizon_samples must be a number above 0, not nan"),
        (partial(cosine_restarts, period_samples=0), "period_samples must be a number above 0, not 0"),
        (partial(cosine_restarts, period_samples=9, multiplier=0.5), "multiplier must be at least 1, not 0.5"),
        (partial(cosine_restarts, period_samples=9, multiplier=math.nan), "multiplier must be a number above 0"),
        (partial(cosine_restarts, period_samples=9, end=2), "end must be a number from 0 to 1, not 2"),
        (partial(multistep, milestones=(20, 10)), "milestones must rise, and 10 comes after 20"),
        (partial(multistep, milestones=(20, 20)), "milestones must rise, and 20 comes after 20"),
        (partial(multistep, milestones=20), "milestones must be a tuple of numbers, not 20"),
        (partial(multistep, milestones="20"), "milestones must be a tuple of numbers, not '20'"),
        (partial(multistep, milestones=(-5, 20)), "milestones must be a number above 0, not -5"),
        (partial(multistep, milestones=(5, math.nan)), "milestones must be a number above 0, not nan"),
        (partial(multistep, milestones=(5,), gamma=0), "gamma must be a number above 0, not 0"),
        (partial(multistep, milestones=(5,), gamma=1.5), "gamma must be a number from 0 to 1, not 1.5"),
        (partial(exponential, gamma=0, every_samples=5), "gamma must be a number above 0, not 0"),
        (partial(exponential, gamma=1.1, every_samples=5), "gamma must be a number from 0 to 1, not 1.1"),
        (partial(exponential, gamma=0.5, every_samples=-5), "every_samples must be a number above 0, not -5"),
        (
            partial(exponential, gamma=0.5, every_samples=5, start_samples=3, warmup_samples=4),
            "start_samples=3 must not come before the warm-up of 4 ends",
        ),
        (partial(exponential, gamma=0.5, every_samples=5, start_samples=math.nan), "start_samples=nan must not"),
        (inverse_sqrt, "inverse_sqrt needs warmup_samples or timescale_samples"),
        (partial(inverse_sqrt, timescale_samples=0), "timescale_samples must be a number above 0, not 0"),
        (partial(rewarm, schedule=linear, at_samples=-1, warmup_samples=1), "at_samples must be a number of at least"),
        (partial(phases, schedules=(linear, linear), boundaries=()), "2 schedules need 1 boundaries, not 0"),
        (partial(phases, schedules=(linear,) * 3, boundaries=(20, 10)), "boundaries must rise, and 10 comes after 20"),
        (
            partial(phases, schedules=(linear, linear), boundaries=(70,), peaks=(1,)),
            "2 schedules need 2 peaks, not 1",
        ),
        (
            partial(phases, schedules=(linear, linear), boundaries=(70,), peaks=(-1, 1)),
            "peaks must be a number above 0, not -1",
        ),
    ],
)
def test_settings_that_cannot_be(schedule: Schedule, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        schedule(NOW)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("samples", "batch", "total"),
    [
        (-1, 10, 100),
        (math.nan, 10, 100),
        (math.inf, 10, 100),
        (0, 0, 100),
        (0, -1, 100),
        (0, math.nan, 100),
        (0, 10, -1),
        (0, 10, math.nan),
    ],
)
def test_progress_that_cannot_be(samples: float, batch: float, total: float) -> None:
    with pytest.raises(ValueError, match="samples must be at least 0, batch above 0 and total at least 0"):
        Progress(samples, batch, total)
