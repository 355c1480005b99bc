"""The gain, the surge, and what goes along with the rate."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.scaling import Hyperparameters, companions, rules
from overnight.scaling.gain import gain, surge, surge_gain

SCALES = st.floats(1e-3, 1e9)
BATCHES = st.integers(1, 10**6)
FACTORS = st.floats(1.0, 1e4)


@given(SCALES, BATCHES, FACTORS)
def test_the_gain_is_between_one_and_k(scale: float, batch: int, k: float) -> None:
    r = gain(scale, batch, k)
    assert 1.0 - 1e-9 <= r <= k * (1 + 1e-9)
    assert gain(scale, batch * k, 1 / k) == pytest.approx(1 / r, rel=1e-9)  # there and back
    assert gain(scale, batch, k / 2) * gain(scale, batch * k / 2, 2) == pytest.approx(r, rel=1e-9)  # in two steps


@given(SCALES, BATCHES, FACTORS)
def test_the_gain_is_the_samples_of_mccandlish(scale: float, batch: int, k: float) -> None:
    """k/r = E(kB)/E(B) with E(B) = Emin (1 + B/Bn): a run that advances by r a step takes as many more samples."""
    assert k / gain(scale, batch, k) == pytest.approx((1 + k * batch / scale) / (1 + batch / scale), rel=1e-9)


def test_adascale_is_exact_on_a_quadratic_with_known_noise() -> None:
    """One SGD step on |w|²/2 with gradient w + noise: the best rate at batch b is |w|²/(|w|² + s/b), so grows by r."""
    square, trace, batch, k = 3.0, 900.0, 50, 8
    best = [square / (square + trace / size) for size in (batch, k * batch)]
    assert best[1] / best[0] == pytest.approx(gain(trace / square, batch, k))


def test_the_surge_is_highest_at_the_noise_scale() -> None:
    batches = [2**i for i in range(16)]
    rates = [surge(256, batch) for batch in batches]
    assert batches[rates.index(max(rates))] == 256
    assert rates[1] / rates[0] == pytest.approx(math.sqrt(2), rel=0.01)  # far below: √k
    assert rates[-1] / rates[-2] == pytest.approx(1 / math.sqrt(2), rel=0.02)  # far above: it falls so


@given(SCALES, BATCHES, FACTORS)
def test_the_rate_is_not_raised_past_the_noise_scale(scale: float, batch: int, k: float) -> None:
    held = surge_gain(scale, batch, k)
    assert 1.0 - 1e-9 <= held <= math.sqrt(k) * (1 + 1e-9)
    assert surge_gain(scale, batch, k, falling=True) <= held * (1 + 1e-9)
    if batch >= scale:
        assert held == pytest.approx(1.0)


@pytest.mark.parametrize("call", [lambda: gain(-1, 1, 1), lambda: gain(1, 0, 1), lambda: gain(math.nan, 1, 1)])
def test_numbers_that_cannot_be(call: object) -> None:
    with pytest.raises(ValueError, match="must be a number"):
        call()  # type: ignore[operator]


def test_betas_keep_their_half_life_down_to_a_floor() -> None:
    first, second = companions.adam_betas((0.9, 0.999), 4)
    assert math.log(0.5) / math.log(second) * 4 == pytest.approx(math.log(0.5) / math.log(0.999))
    assert 0.9**4 < first < 0.9
    assert companions.adam_betas((0.5, 0.8), 64) == (0.5, 0.8)  # below the floors already
    assert companions.adam_betas((0.9, 0.999), 1) == (0.9, 0.999)
    sde = rules.adam_sde(Hyperparameters(lr=1.0, global_batch_size=1, betas=(0.9, 0.999)), 4).hyperparameters.betas
    assert sde is not None
    assert second == pytest.approx(sde[1], abs=1e-5)


def test_decay_clip_and_averages() -> None:
    steps, lr, decay = 1000.0, 0.1, 0.01
    scaled = companions.decoupled_weight_decay(decay, 16, lr_factor=3.0, samples_factor=1.25)
    assert lr * 3.0 * scaled * (steps * 1.25 / 16) == pytest.approx(lr * decay * steps)
    trace, square, batch, k = 900.0, 3.0, 50, 8
    norms = [math.sqrt(square + trace / size) for size in (batch, k * batch)]
    assert companions.max_norm(2.0, trace / square, batch, k) == pytest.approx(2.0 * norms[1] / norms[0])
    assert companions.ema_decay(companions.ema_decay(0.99, 4), 0.25) == pytest.approx(0.99)
    assert companions.adam_eps(1e-6, 100) == pytest.approx(1e-7)
    assert companions.momentum(0.9, 100) == 0.9


@given(st.integers(1, 5000), st.integers(1, 5000))
def test_ghost_batches_divide_the_batch(base: int, local: int) -> None:
    size = companions.ghost_batch_size(base, local)
    assert local % size == 0
    assert size <= base


def test_adascale_as_a_rule() -> None:
    tuned = Hyperparameters(lr=0.1, global_batch_size=100, warmup_samples=1e4, total_samples=1e6, momentum=0.9)
    scaled = rules.adascale(tuned, 10, noise_scale=1000)
    new = scaled.hyperparameters
    assert new.lr == pytest.approx(0.55)
    assert new.total_steps == math.ceil(tuned.total_samples / 100 / 5.5)  # type: ignore[operator]
    assert new.warmup_samples / new.total_samples == pytest.approx(0.01)  # type: ignore[operator]
    assert new.momentum == 0.9
    for said in ("r = 5.5", "0.1 → 0.55", "length 1,000,000 → 1,818,182", "all else stays"):
        assert said in scaled.explanation
    assert (
        rules.adascale(tuned, 8, noise_scale=math.inf).hyperparameters.lr == rules.linear(tuned, 8).hyperparameters.lr
    )
    flat = rules.adascale(tuned, 8, noise_scale=0.0).hyperparameters
    assert (flat.lr, flat.total_steps) == (tuned.lr, tuned.total_steps)


FULL = Hyperparameters(
    lr=1e-3,
    global_batch_size=64,
    warmup_samples=6400,
    total_samples=1e7,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.01,
    max_norm=1.0,
    ema_decay=0.999,
)


def test_date_without_a_measurement_is_legw_with_companions() -> None:
    ours, legw = rules.date(FULL, 16).hyperparameters, rules.legw(FULL, 16).hyperparameters
    assert (ours.lr, ours.warmup_steps, ours.total_samples) == (pytest.approx(legw.lr), legw.warmup_steps, 1e7)
    assert ours.betas == companions.adam_betas((0.9, 0.999), 16)
    assert ours.eps == pytest.approx(1e-8 / 4)
    assert ours.weight_decay == pytest.approx(0.04)
    # a clip / √k would clip every gradient that is not all noise
    assert (ours.max_norm, ours.ema_decay) == (1.0, pytest.approx(0.999**16))


def test_date_without_a_measurement_is_legw_for_sgd_too() -> None:
    ours = rules.date(FULL, 16, adaptive=False)
    assert ours.hyperparameters.lr == pytest.approx(4 * FULL.lr)
    assert "(· √r)" in ours.explanation
    assert ours.hyperparameters.max_norm == FULL.max_norm


@given(st.floats(1.0, 1e6), st.sampled_from([2, 8, 64]), st.booleans())
def test_date_keeps_what_a_run_does(scale: float, k: int, adaptive: bool) -> None:
    """Steps · r, lr · decay · steps, the share of the average's half-life; the expected norm against the clip."""
    new = rules.date(FULL, k, noise_scale=scale, adaptive=adaptive).hyperparameters
    r = gain(scale, 64, k)
    assert new.total_samples is not None
    assert new.max_norm is not None
    steps, old_steps = new.total_samples / new.global_batch_size, 1e7 / 64
    assert steps * r == pytest.approx(old_steps)
    if adaptive:
        assert new.lr * (new.weight_decay or 0) * steps == pytest.approx(FULL.lr * 0.01 * old_steps)
    assert new.lr / FULL.lr == pytest.approx(math.sqrt(r) if adaptive else r)
    assert new.max_norm == pytest.approx(companions.max_norm(1.0, scale, 64, k))
    assert new.warmup_samples <= 0.3 * new.total_samples * (1 + 1e-9)


def test_date_does_not_warm_up_for_longer_than_a_share_of_the_run() -> None:
    short = Hyperparameters(lr=1.0, global_batch_size=10, warmup_samples=1000, total_samples=10_000)
    assert rules.date(short, 10).hyperparameters.warmup_samples == pytest.approx(3000)
    longer = Hyperparameters(lr=1.0, global_batch_size=10, warmup_samples=5000, total_samples=10_000)
    assert rules.date(longer, 10).hyperparameters.warmup_samples == 5000
    assert rules.date(FULL, 1).hyperparameters == FULL
