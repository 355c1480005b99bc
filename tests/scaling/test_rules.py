"""Scaling rules: what each changes and what it leaves, that steps of it compose, and what it refuses."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.scaling import Hyperparameters, Scaled, rules

Rule = Callable[..., Scaled]
RULES: list[Rule] = [rules.none, rules.linear, rules.sqrt, rules.capped_linear, rules.legw, rules.adam_sde, rules.date]
TUNED = Hyperparameters(
    lr=1e-3,
    global_batch_size=256,
    warmup_samples=25_600,
    total_samples=25_600_000,
    betas=(0.95, 0.999),
    eps=1e-8,
    momentum=0.9,
    weight_decay=0.01,
)
NAMES = ("lr", "warmup_samples", "total_samples", "betas", "eps", "momentum", "weight_decay")


def changed(scaled: Scaled) -> set[str]:
    return {name for name in NAMES if getattr(scaled.hyperparameters, name) != getattr(scaled.baseline, name)}


def close(a: Hyperparameters, b: Hyperparameters) -> bool:
    assert a.betas is not None
    assert a.global_batch_size == b.global_batch_size
    pairs = [(getattr(a, name), getattr(b, name)) for name in NAMES if name != "betas"]
    return all(x == pytest.approx(y, rel=1e-9) for x, y in pairs) and a.betas == pytest.approx(b.betas, rel=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_at_the_baseline_nothing_changes(rule: Rule) -> None:
    scaled = rule(TUNED, 1)
    assert scaled.baseline is TUNED
    assert close(scaled.hyperparameters, TUNED)
    assert rule(TUNED, global_batch_size=256) == scaled


@pytest.mark.parametrize(
    ("rule", "names"),
    [
        (rules.none, set()),
        (rules.linear, {"lr"}),
        (rules.sqrt, {"lr"}),
        (rules.capped_linear, {"lr"}),
        (rules.legw, {"lr", "warmup_samples"}),
        (rules.adam_sde, {"lr", "betas", "eps"}),
    ],
)
@pytest.mark.parametrize("k", [0.25, 2])
def test_each_rule_changes_what_its_paper_does_and_nothing_else(rule: Rule, names: set[str], k: float) -> None:
    scaled = rule(TUNED, k)
    assert changed(scaled) == names
    assert scaled.hyperparameters.global_batch_size == 256 * k
    assert scaled == rule(TUNED, global_batch_size=int(256 * k))


def test_linear_and_sqrt() -> None:
    goyal = Hyperparameters(lr=0.1, global_batch_size=256)
    assert rules.linear(goyal, global_batch_size=8192).hyperparameters.lr == pytest.approx(3.2)  # Goyal et al. 2017
    assert rules.sqrt(goyal, 16).hyperparameters.lr == pytest.approx(0.4)
    assert rules.sqrt(goyal, 0.25).hyperparameters.lr == pytest.approx(0.05)


def test_the_capped_rates() -> None:
    """Puri et al. 2018: 5e-4 at batch 128, linear, at most 3e-3."""
    paper = Hyperparameters(lr=5e-4, global_batch_size=128)
    rates = [rules.capped_linear(paper, global_batch_size=b).hyperparameters.lr for b in (128, 256, 512, 1024, 32_768)]
    assert rates == pytest.approx([5e-4, 1e-3, 2e-3, 3e-3, 3e-3])
    assert rules.capped_linear(paper, 8, cap=1e-2).hyperparameters.lr == pytest.approx(4e-3)


def test_adam_sde() -> None:
    """Malladi et al. 2022: η√k, 1 - β' = k (1 - β), ε / √k."""
    scaled = rules.adam_sde(TUNED, 4).hyperparameters
    assert scaled.lr == pytest.approx(2e-3)
    assert scaled.betas == pytest.approx((0.8, 0.996))
    assert scaled.eps == pytest.approx(5e-9)
    assert rules.adam_sde(replace(TUNED, eps=None), 4).hyperparameters.eps is None


@pytest.mark.parametrize("betas", [(0.95, 0.999), (0.5, 0.999), (0.999, 0.9)])
def test_adam_sde_ends_where_a_beta_would_reach_zero(betas: tuple[float, float]) -> None:
    tuned = replace(TUNED, betas=betas, global_batch_size=1000)
    end = 1 / (1 - min(betas))
    rules.adam_sde(tuned, global_batch_size=round(1000 * end) - 1)
    with pytest.raises(ValueError, match=rf"from a beta of {min(betas)}: .* so k below {end:g}\."):
        rules.adam_sde(tuned, global_batch_size=round(1000 * end) + 1)


@given(
    rule=st.sampled_from([rules.none, rules.linear, rules.sqrt, rules.legw, rules.adam_sde]),
    first=st.sampled_from([0.125, 0.25, 0.5, 1, 2, 4]),
    second=st.sampled_from([0.125, 0.25, 0.5, 1, 2, 4]),
    lr=st.floats(1e-6, 10),
)
@settings(max_examples=200, deadline=None)
def test_two_steps_are_one(rule: Rule, first: float, second: float, lr: float) -> None:
    tuned = replace(TUNED, lr=lr)
    between = rule(tuned, first).hyperparameters
    assert close(rule(between, second).hyperparameters, rule(tuned, first * second).hyperparameters)


@given(k=st.sampled_from([2.0**power for power in range(-8, 7)]), warmup=st.integers(0, 400_000))
@settings(deadline=None)
def test_legw_keeps_the_number_of_warm_up_steps(k: float, warmup: int) -> None:
    tuned = replace(TUNED, warmup_samples=warmup)
    assert rules.legw(tuned, k).hyperparameters.warmup_steps == tuned.warmup_steps == math.ceil(warmup / 256)


@given(batch=st.integers(1, 10**6), more=st.integers(0, 10**6))
@settings(deadline=None)
def test_no_rate_falls_with_the_batch(batch: int, more: int) -> None:
    for rule in (rules.none, rules.linear, rules.sqrt, rules.capped_linear):
        low, high = (rule(TUNED, global_batch_size=b).hyperparameters.lr for b in (batch, batch + more))
        assert high >= low


def test_the_sentence_names_old_and_new_values_rule_and_source() -> None:
    assert rules.legw(TUNED, 4).explanation == (
        "Batch 256 → 1024 (k = 4), LEGW (You et al. 2019): lr 0.001 → 0.002 (· √k), warm-up 25,600 → 102,400 samples "
        "(· k, 100 → 100 steps); all else stays."
    )
    assert rules.adam_sde(TUNED, global_batch_size=1024).explanation == (
        "Batch 256 → 1024 (k = 4), the Adam SDE rule (Malladi et al. 2022): lr 0.001 → 0.002 (· √k), betas "
        "(0.95, 0.999) → (0.8, 0.996) (1 - β · k), eps 1e-08 → 5e-09 (/ √k); all else stays."
    )
    assert rules.capped_linear(TUNED, 4).explanation == (
        "Batch 256 → 1024 (k = 4), the capped linear rule (Puri et al. 2018): lr 0.001 → 0.003 (· k, at most 0.003); "
        "all else stays."
    )
    assert rules.sqrt(TUNED, 0.25).explanation == (
        "Batch 256 → 64 (k = 0.25), the square-root rule (Krizhevsky 2014): lr 0.001 → 0.0005 (· √k); all else stays."
    )
    assert rules.none(TUNED, 2).explanation == "Batch 256 → 512 (k = 2), no rule: all else stays."
    for rule in RULES:
        assert "\n" not in rule(TUNED, 2).explanation


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, "either k or global_batch_size"),
        ({"k": 2, "global_batch_size": 512}, "either k or global_batch_size"),
        ({"k": 0}, "k must be a number above 0, not 0"),
        ({"k": -2}, "k must be a number above 0, not -2"),
        ({"k": math.nan}, "k must be a number above 0, not nan"),
        ({"k": math.inf}, "k must be a number above 0, not inf"),
        ({"k": 1 / 512}, "k = 0.00195312 times batch 256 is no whole number"),
        ({"k": 1.001}, "k = 1.001 times batch 256 is no whole number"),
        ({"global_batch_size": 0}, "whole number of at least 1, not 0"),
        ({"k": "4"}, "k must be a number above 0, not '4'"),
        ({"global_batch_size": math.nan}, "whole number of at least 1, not nan"),
        ({"global_batch_size": math.inf}, "whole number of at least 1, not inf"),
        ({"global_batch_size": "512"}, "whole number of at least 1, not '512'"),
        ({"global_batch_size": 12.5}, "whole number of at least 1, not 12.5"),
    ],
)
def test_what_is_no_batch_is_refused(rule: Rule, how: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rule(TUNED, **how)


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match="the baseline has none"):
        rules.adam_sde(replace(TUNED, betas=None), 2)
    with pytest.raises(ValueError, match="cap must be a number above 0, not -1"):
        rules.capped_linear(TUNED, 2, cap=-1)
    with pytest.raises(ValueError, match="warm-up of 51,200,000 samples is longer than the run of 25,600,000"):
        rules.legw(TUNED, 2000)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"lr": -1e-3}, "lr must be a number above 0, not -0.001"),
        ({"lr": math.nan}, "lr must be a number above 0, not nan"),
        ({"lr": "fast"}, "lr must be a number, not 'fast'"),
        ({"lr": None}, "lr must be"),
        ({"lr": True}, "lr must be a number, not True"),
        ({"global_batch_size": math.nan}, "global_batch_size must be a whole number of at least 1, not nan"),
        ({"global_batch_size": math.inf}, "global_batch_size must be a whole number of at least 1, not inf"),
        ({"betas": 0.9}, "betas must be two numbers"),
        ({"global_batch_size": 0}, "global_batch_size must be a whole number of at least 1, not 0"),
        ({"global_batch_size": 1.5}, "global_batch_size must be a whole number of at least 1, not 1.5"),
        ({"warmup_samples": -1}, "warmup_samples must be a number of at least 0, not -1"),
        ({"warmup_samples": math.nan}, "warmup_samples must be a number of at least 0, not nan"),
        ({"total_samples": 0}, "total_samples must be a number above 0, not 0"),
        ({"warmup_samples": 10**9}, "warm-up of 1,000,000,000 samples is longer than the run of 25,600,000"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers from 0 to below 1, not \(0.9, 1.0\)"),
        ({"betas": (0.9,)}, "betas must be two numbers"),
        ({"momentum": 1.0}, "momentum must be a number from 0 to below 1, not 1.0"),
        ({"eps": -1e-8}, "eps must be a number of at least 0, not -1e-08"),
        ({"weight_decay": math.nan}, "weight_decay must be a number of at least 0, not nan"),
    ],
)
def test_hyperparameters_that_cannot_be(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(TUNED, **wrong)


def test_steps_come_from_samples() -> None:
    assert (TUNED.warmup_steps, TUNED.total_steps) == (100, 100_000)
    assert replace(TUNED, warmup_samples=25_601).warmup_steps == 101
    assert replace(TUNED, total_samples=None).total_steps is None
    assert Hyperparameters(lr=1, global_batch_size=3, warmup_samples=0.1 * 3 * 10).warmup_steps == 1
