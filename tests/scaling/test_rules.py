"""Scaling rules: the identity at the baseline, and the papers' own numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.scaling import rules

RULES = [rules.linear, rules.sqrt, rules.capped_linear]


@pytest.mark.parametrize("rule", RULES)
def test_the_baseline_stays(rule: object) -> None:
    assert callable(rule)
    assert rule(1e-3, 1) == 1e-3


def test_linear_and_sqrt() -> None:
    assert rules.linear(0.1, 32) == pytest.approx(3.2)  # Goyal et al. 2017: 0.1 at 256, 3.2 at 8192
    assert rules.sqrt(0.1, 16) == pytest.approx(0.4)
    assert rules.sqrt(rules.sqrt(0.1, 3), 5) == pytest.approx(rules.sqrt(0.1, 15))


def test_the_papers_rates() -> None:
    """Puri et al. 2018: 5e-4 at batch 128, linear, at most 3e-3."""
    rates = [rules.capped_linear(5e-4, batch / 128) for batch in (128, 256, 512, 1024, 2048, 32_768)]
    assert rates == pytest.approx([5e-4, 1e-3, 2e-3, 3e-3, 3e-3, 3e-3])
    assert rules.capped_linear(5e-4, 8, cap=1e-2) == pytest.approx(4e-3)


@given(lr=st.floats(1e-6, 1), k=st.floats(0.01, 100), more=st.floats(1, 10))
def test_no_rule_falls_with_the_batch(lr: float, k: float, more: float) -> None:
    for rule in RULES:
        assert rule(lr, k * more) >= rule(lr, k) * (1 - 1e-12)
