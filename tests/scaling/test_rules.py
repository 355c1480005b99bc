"""The rules for the rate at another batch, at the points that their papers give."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.scaling.rules import capped_linear, linear, sqrt

BATCHES = st.floats(1 / 64, 4096)


@pytest.mark.parametrize(
    ("batch", "rate"),
    [(64, 2.5e-4), (128, 5e-4), (256, 1e-3), (512, 2e-3), (768, 3e-3), (1024, 3e-3), (2048, 3e-3), (32768, 3e-3)],
)
def test_the_40_gb_papers_rates(batch: int, rate: float) -> None:
    assert capped_linear(5e-4, batch / 128) == pytest.approx(rate, rel=1e-12)


def test_another_cap() -> None:
    assert capped_linear(0.1, 8, cap=0.5) == 0.5
    assert capped_linear(0.1, 4, cap=0.5) == pytest.approx(0.4)


def test_linear_and_square_root() -> None:
    assert [linear(0.1, k) for k in (0.5, 1, 8)] == pytest.approx([0.05, 0.1, 0.8])
    assert [sqrt(0.1, k) for k in (0.25, 1, 16)] == pytest.approx([0.05, 0.1, 0.4])


@given(k=BATCHES, further=BATCHES)
def test_two_steps_of_a_rule_are_one(k: float, further: float) -> None:
    for rule in (linear, sqrt):
        assert rule(rule(0.01, k), further) == pytest.approx(rule(0.01, k * further), rel=1e-9)


@given(k=BATCHES)
def test_the_square_root_stays_between_the_baseline_and_linear(k: float) -> None:
    low, high = sorted((0.01, linear(0.01, k)))
    assert low - 1e-12 <= sqrt(0.01, k) <= high + 1e-12
