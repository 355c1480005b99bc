import json
import math
from functools import partial
from typing import Any

import pytest
import torch
from scaling.noisy import Slope, make, train, tuned

from overnight.errors import UserError
from overnight.scaling import DATE
from overnight.scaling.decisions import Decision
from overnight.scaling.gain import gain
from overnight.schedule import apply, linear


def test_far_below_the_noise_scale_the_rate_is_linear_and_the_run_keeps_its_samples() -> None:
    model = Slope(noise_scale=200_000)
    date = make(model, k=8)
    rates = train(date, model)
    assert rates[5] == pytest.approx(0.6 * 0.01 * math.sqrt(8))  # LEGW until it is measured
    assert rates[-1] == pytest.approx(0.08, rel=0.1)
    assert rates[-1] <= 0.08
    assert date.samples == pytest.approx(32_000, rel=0.05)


def test_far_below_the_noise_scale_adams_rate_is_the_square_root() -> None:
    model = Slope(noise_scale=200_000)
    date = make(model, k=8, adam=True)
    assert train(date, model)[-1] == pytest.approx(0.01 * math.sqrt(8), rel=0.1)


@pytest.mark.parametrize("adam", [False, True])
def test_far_above_the_noise_scale_nothing_is_scaled(adam: bool) -> None:
    model = Slope(noise_scale=0.5)
    date = make(model, k=8, adam=adam, max_stretch=8, baseline=tuned(total_samples=9600.0))
    rates = train(date, model)
    assert rates[-1] == pytest.approx(0.01, rel=0.03)
    # every step is worth one old one, once that is known: ten at most were counted as eight
    assert 600 - 7 * 10 <= date.steps <= 600


@pytest.mark.parametrize("adam", [False, True])
def test_between_the_rate_follows_the_gain_and_effective_samples_add_up(adam: bool) -> None:
    model, bn = Slope(noise_scale=64), 64
    date = make(model, k=8, adam=adam, max_stretch=8)
    rates = train(date, model)
    r = gain(bn, 16, 8)
    # past the noise scale Adam's batch counts up to it only
    expected = math.sqrt(gain(bn, 16, 4)) if adam else r
    assert rates[-1] == pytest.approx(0.01 * expected, rel=0.15)
    assert date.gain == pytest.approx(r, rel=0.15)
    gains = {decision.step: decision.new for decision in date.decisions if decision.what == "gain"}
    now, position = 8.0, 0.0
    for step in range(date.steps):
        position += now * 16
        now = float(gains.get(step + 1, now))
    assert date.position == pytest.approx(position)
    assert date.position >= 32_000 > date.position - 8 * 16


def test_a_run_lengthens_within_the_budget() -> None:
    model = Slope(noise_scale=0.5)
    date = make(model, k=8, max_stretch=1.5)
    train(date, model)
    assert 1.3 * 32_000 < date.samples <= 1.5 * 32_000 + 128
    assert "effective_samples" in [decision.what for decision in date.decisions]


def test_the_schedule_reaches_its_end_when_the_budget_does() -> None:
    model = Slope(noise_scale=0.5)
    date = make(model, k=8, max_stretch=1.5, schedule=linear)
    assert train(date, model)[-1] < 0.01 * 0.01


def test_at_the_baselines_batch_it_is_the_plain_schedule() -> None:
    model, baseline = Slope(noise_scale=100), tuned(total_samples=6400.0)
    date = make(model, k=1, baseline=baseline, schedule=linear)
    rates = train(date, model)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)
    plain = apply(optimizer, partial(linear, warmup_samples=160), global_batch_size=16, total_samples=6400)
    expected = []
    for _ in range(400):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        plain.step()
    assert rates == pytest.approx(expected)
    assert date.measuring.noise is None


def test_the_batch_grows_by_accumulation_with_the_noise_scale() -> None:
    model = Slope(noise_scale=100_000)
    date = make(model, k=16, batch_warmup=0.5, baseline=tuned(total_samples=256_000.0))
    assert date.accumulation == 2
    train(date, model, 8)
    assert date.global_batch_size == 32
    train(date, model)
    assert date.global_batch_size == 256
    grown = [decision for decision in date.decisions if decision.what == "global_batch_size"]
    assert [decision.new for decision in grown] == [32, 64, 128, 256]
    assert "has passed" in grown[1].why


def test_the_batch_grows_at_the_latest_by_its_share_of_the_run() -> None:
    model = Slope(noise_scale=0.1)
    date = make(model, k=8, batch_warmup=0.2, max_stretch=2)
    positions: dict[int, float] = {}
    while not date.done:
        train(date, model, 1)
        positions.setdefault(date.global_batch_size, date.progress)
    assert positions[64] == pytest.approx(0.1, abs=0.01)
    assert positions[128] == pytest.approx(0.2, abs=0.01)


def test_what_is_fixed_stays() -> None:
    model = Slope(noise_scale=1)
    everything = ("lr", "warmup_samples", "total_samples", "global_batch_size", "betas", "eps", "weight_decay")
    baseline = tuned(betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    date = make(model, k=8, adam=True, fixed=everything, baseline=baseline)
    before = {name: date.optimizer.param_groups[0][name] for name in ("betas", "eps", "weight_decay")}
    rates = train(date, model)
    assert set(rates[2:]) == {0.01}  # the warm-up of 160 samples is two steps of 128
    assert date.samples == 32_000
    assert {name: date.optimizer.param_groups[0][name] for name in before} == before


def test_companions_follow_the_gain_where_the_baseline_names_them() -> None:
    model = Slope(noise_scale=1)
    baseline = tuned(betas=(0.9, 0.999), eps=1e-8, max_norm=2.0)
    date = make(model, k=16, adam=True, baseline=baseline)
    group = date.optimizer.param_groups[0]
    assert group["betas"] == pytest.approx((0.9**4, 0.999**16))
    assert group["eps"] == pytest.approx(1e-8 / 4)
    assert date.max_norm == pytest.approx(0.5)
    train(date, model, 100)
    assert group["betas"] == pytest.approx((0.9, 0.999), rel=0.01)


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"fixed": ("speed",)}, "speed"),
        ({"fixed": ("total_samples",), "max_stretch": 3.0}, "max_stretch"),
        ({"fixed": ("global_batch_size",), "batch_warmup": 0.5}, "batch_warmup"),
        ({"max_stretch": 0.5}, "max_stretch=0.5"),
        ({"global_batch_size": 8, "micro_batch_size": 8}, "below the baseline's 16"),
        ({"micro_batch_size": 48}, "micro-batches of 48"),
        ({"micro_batch_size": None}, "one micro-batch on one rank"),
        ({"baseline": tuned(lr=0.02)}, "0.02"),
    ],
)
def test_bad_settings_are_told(more: dict[str, Any], word: str) -> None:
    model = Slope(1)
    given = {"global_batch_size": 128, "micro_batch_size": 16, "baseline": tuned()} | more
    baseline = given.pop("baseline")
    with pytest.raises(UserError) as error:
        DATE(torch.optim.SGD(model.parameters(), lr=0.01), baseline, model=model, **given)
    assert word in error.value.problem
    assert error.value.remedy


@pytest.mark.parametrize("kind", [torch.optim.RMSprop, torch.optim.Adagrad])
def test_an_update_without_betas_may_be_normalised_too(kind: type[torch.optim.Optimizer]) -> None:
    model = Slope(1)
    optimizer = kind(model.parameters(), lr=0.01)
    date = DATE(optimizer, tuned(), model=model, global_batch_size=128, micro_batch_size=16)
    assert date.following.adaptive
    assert not date.measuring.preconditioned
    date.close()


def test_a_wrong_number_of_observations_is_told() -> None:
    model = Slope(1)
    date = make(model, k=4)
    with pytest.raises(UserError, match="0 times in this step of 4"):
        date.step()


def test_without_measuring_it_is_legw() -> None:
    model = Slope(1)
    date = make(model, k=4, measure=False)
    assert train(date, model)[-1] == pytest.approx(0.02)
    assert date.samples == 32_000
    assert date.steps == 500


def test_it_begins_again_after_a_jump() -> None:
    model = Slope(1_000_000)
    date = make(model, k=4)
    train(date, model, 50)
    date.jumped("sequences of 512", global_batch_size=128)
    assert date.measuring.noise is not None
    assert math.isinf(date.measuring.noise.read().high)
    rates = train(date, model, 3)
    assert rates[:2] == pytest.approx([0.1 * rates[0] / 0.1, 2 * rates[0]])
    assert rates[0] == pytest.approx(0.1 * 0.01 * date.following.rate)
    assert date.accumulation == 8


def test_a_resumed_run_is_the_same() -> None:
    ends = []
    for at in (None, 37):
        model = Slope(noise_scale=64)
        date = make(model, k=8, adam=True, schedule=linear, baseline=tuned(total_samples=16_000.0), batch_warmup=0.3)
        if at is not None:
            train(date, model, at)
            saved = json.loads(json.dumps(date.state_dict()))
            weights, optimizer = model.state_dict(), date.optimizer.state_dict()
            date.close()
            model, old = Slope(noise_scale=64), date
            date = make(model, k=8, adam=True, schedule=linear, baseline=old.baseline, batch_warmup=0.3)
            model.load_state_dict(weights)
            date.optimizer.load_state_dict(optimizer)
            date.load_state_dict(saved)
        rates = train(date, model)
        ends.append((rates[-10:], model.w.tolist(), date.samples, date.position))
    assert ends[0] == ends[1]


def test_decisions_are_plain_data_and_read_well() -> None:
    model = Slope(noise_scale=64)
    told: list[Decision] = []
    date = make(model, k=8, log=told.append)
    train(date, model)
    assert told == date.decisions
    lines = [json.loads(json.dumps(decision.to_json())) for decision in date.decisions]
    assert {line["what"] for line in lines} >= {"lr", "gain", "warmup"}
    assert all(line["why"] for line in lines)
    assert "samples" in str(next(decision for decision in date.decisions if decision.what == "gain"))


def test_closed_it_leaves_no_hook() -> None:
    model = Slope(1)
    date = make(model, k=4)
    date.close()
    assert not date.optimizer._optimizer_step_pre_hooks
    assert not date.optimizer._optimizer_step_post_hooks
    assert not model.w._backward_hooks
