"""Epochs over batch: the law is found again under noise, coarse evaluation and an outlier."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from overnight.scaling.convergence import epochs_ratio, fit_convergence

BATCHES = [512, 1024, 2048, 4096, 8192, 16_384, 32_768]


def law(least: float, critical: float) -> list[float]:
    return [least * (1 + batch / critical) for batch in BATCHES]


@pytest.mark.parametrize("critical", [700, 9000, 60_000])
def test_an_exact_law_is_found(critical: float) -> None:
    found = fit_convergence(BATCHES, law(4.0, critical))
    assert found.critical_batch == pytest.approx(critical, rel=1e-3)
    assert found.least_epochs == pytest.approx(4.0, rel=1e-3)
    assert found.epochs(BATCHES[0]) * epochs_ratio(critical, BATCHES[0], 64) == pytest.approx(
        found.epochs(32_768), rel=2e-3
    )
    assert found.steps(2048, 1e6) == pytest.approx(found.epochs(2048) * 1e6 / 2048)
    assert found.low <= critical * 1.001
    assert found.high >= critical * 0.999


def test_the_interval_covers_the_critical_batch() -> None:
    """With 4 % of noise on each row, 200 draws: at least 90 % (a robust fit of seven rows is a little too sure)."""
    random, covered = np.random.default_rng(0), 0
    for _ in range(200):
        found = fit_convergence(BATCHES, np.array(law(5.0, 6000)) * np.exp(0.04 * random.standard_normal(7)))
        covered += found.low <= 6000 <= found.high
    assert covered >= 180, covered


def test_whole_epochs_do_not_bend_the_law() -> None:
    """Runs are seen to arrive at the next whole epoch: half an epoch late on average, 10 % of the smallest here."""
    random, found = np.random.default_rng(1), {0.0: [], 1.0: []}
    for _ in range(100):
        true = np.array(law(4.0, 9000)) * np.exp(0.03 * random.standard_normal(7))
        for every, results in found.items():
            fit = fit_convergence(BATCHES, np.ceil(true), evaluated_every=every)
            results.append((fit.critical_batch, fit.low <= 9000 <= fit.high))
    told, untold = ([batch for batch, _ in found[every]] for every in (1.0, 0.0))
    assert np.median(told) == pytest.approx(9000, rel=0.05)
    assert abs(np.median(told) - 9000) < abs(np.median(untold) - 9000)
    assert sum(inside for _, inside in found[1.0]) >= 90


def test_one_odd_row_counts_less() -> None:
    odd = law(4.0, 9000)
    odd[2] *= 1.5
    assert fit_convergence(BATCHES, odd).critical_batch == pytest.approx(9000, rel=0.05)


def test_two_batches_fit_exactly_and_say_nothing_of_their_error() -> None:
    found = fit_convergence([100, 400], [2.0, 3.0])
    assert found.epochs(100) == pytest.approx(2.0, rel=1e-3)
    assert found.epochs(400) == pytest.approx(3.0, rel=1e-3)
    assert (found.low, found.high) == (0.0, math.inf)


def test_flat_epochs_have_no_upper_end() -> None:
    assert fit_convergence(BATCHES, [5.0, 5.1, 4.9, 5.0, 5.1, 4.9, 5.0]).high == math.inf


@pytest.mark.parametrize(
    ("batches", "epochs"), [([1], [1.0]), ([5, 5], [1.0, 2.0]), ([1, 2], [1.0, -1.0]), ([1, 2, 3], [1.0, 2.0])]
)
def test_what_cannot_be_fitted(batches: list[float], epochs: list[float]) -> None:
    with pytest.raises(ValueError):
        fit_convergence(batches, epochs)


@pytest.mark.parametrize(
    ("table", "low", "high"), [("gnmt", 7e3, 11e3), ("rnnt", 3e3, 4.6e3), ("resnet", 3.8e4, 6e4), ("bert", 1e4, 1.8e4)]
)
def test_on_mlperf(table: str, low: float, high: float) -> None:
    """The public reference-convergence points: batches at which returns halve, as others fitted them."""
    folder = os.environ.get("OVERNIGHT_DATA")
    if not folder:
        pytest.skip("OVERNIGHT_DATA is not set")
    rows = json.loads((Path(folder) / "mlperf" / "convergence.json").read_text())[table]
    found = fit_convergence(
        [row["batch_size"] for row in rows], [float(np.mean(row["epochs_to_converge"])) for row in rows]
    )
    assert low < found.critical_batch < high
