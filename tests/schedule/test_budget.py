"""Budgets in epochs, steps and minutes."""

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from overnight.schedule import Progress, linear
from overnight.train.budget import Budget
from overnight.train.run import Run

NOTHING: Any = partial(dict)
RUN = Run("none", NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, global_batch_size=8)


def budget(**given: float) -> Budget:
    return Budget(replace(RUN, **given), steps_per_epoch=25)  # type: ignore[arg-type]


def test_steps() -> None:
    made = budget(steps=40)
    assert (made.steps, made.total) == (40, 320.0)
    assert [made.fraction(step, 1e9) for step in (0, 10, 40, 41)] == [0.0, 0.25, 1.0, 1.0]
    assert made.progress(80) == Progress(80, 8, 320.0)


@pytest.mark.parametrize(("epochs", "steps"), [(1, 25), (2, 50), (0.5, 13), (1.01, 26), (0.001, 1)])
def test_epochs_are_rounded_up_to_whole_steps(epochs: float, steps: int) -> None:
    made = budget(epochs=epochs)
    assert (made.steps, made.total) == (steps, 8.0 * steps)
    assert made.fraction(steps, 0.0) == 1.0
    assert made.fraction(steps - 1, 1e9) < 1.0


@pytest.mark.parametrize("given", [{"steps": 40}, {"epochs": 2}])
def test_the_clock_changes_nothing_where_the_length_is_given(given: dict[str, float]) -> None:
    made = budget(**given)
    before = made.total
    made.observe(16, 1000.0)
    assert made.total == before


def test_minutes_follow_the_clock() -> None:
    made = budget(minutes=2)
    assert made.steps is None
    assert made.total == math.inf
    assert [made.fraction(10**6, seconds) for seconds in (0.0, 30.0, 120.0, 121.0)] == [0.0, 0.25, 1.0, 1.0]
    made.observe(800, 30.0)
    assert made.total == 3200.0
    made.observe(1200, 60.0)
    assert made.total == 2400.0
    assert linear(made.progress(1200)) == pytest.approx(0.5)


def test_past_its_minutes_a_run_has_no_samples_left() -> None:
    made = budget(minutes=2)
    made.observe(800, 150.0)
    assert made.total == 800.0
    assert linear(made.progress(800)) == 0.0


@pytest.mark.parametrize(("samples", "seconds"), [(0, 10.0), (8, 0.0), (0, 0.0)])
def test_the_first_moments_tell_nothing_about_the_length(samples: int, seconds: float) -> None:
    made = budget(minutes=2)
    made.observe(samples, seconds)
    assert made.total == math.inf
    assert linear(made.progress(samples)) == 1.0
