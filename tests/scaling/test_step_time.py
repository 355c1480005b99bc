"""The step-time model: its terms by hand, parameters that are found again, cells that the fit had not seen."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from overnight.errors import UserError
from overnight.scaling.step_cells import StepCell
from overnight.scaling.step_time import _BOUNDS, StepTime, _solved, fit

TRUTH = StepTime(
    link_overhead=1.05, ring_handling_ms=3.0, server_handling_ms=5.0, hop_ms=0.3, ring_overlap=0.3, server_overlap=0.9
)
LINKS = (None, 1e9, 1e8)
MODES = {"ddp": (1, 1, 3), "bf16": (0.5, 1, 3), "sampled": (0.15, 0.4, 4), "local": (1 / 16, 1, 3 / 16)}
SERVED = {"async": (1, 1, 1), "async-sampled": (0.15, 0.4, 1)}


def measured(truth: StepTime = TRUTH, noise: float = 0.0, seed: int = 0, workers: tuple[int, ...] = (2, 4)) -> list:
    """Cells of two models on two cores, as this model would have them, with log-normal noise."""
    generator, found = np.random.default_rng(seed), []
    for (name, count, compute), n, link in itertools.product(
        (("lstm", 17e6, 180.0), ("rnn", 9e6, 90.0)), workers, LINKS
    ):
        for mode, (share, work, messages) in (MODES | SERVED).items():
            size = 4 * count * share * (1 if mode in SERVED else 2 * (n - 1) / n)
            cell = StepCell(mode, n, link, size, compute * work, cores=2, messages=messages, model=name)
            time = truth.predict(cell).step_ms * math.exp(generator.normal(0.0, noise))
            found.append(replace(cell, step_ms=time))
    return found


def test_a_ring_by_hand() -> None:
    cell = StepCell("ddp", 4, 1e8, 102e6, 400.0, cores=2, messages=3)
    model = StepTime(link_overhead=1.1, ring_handling_ms=0.5, server_handling_ms=99.0, hop_ms=0.2, ring_overlap=0.25)
    computing, transfer = 2 * 400.0, 8160.0
    expected = computing + 1.1 * transfer - 0.25 * computing
    found = model.predict(cell)
    assert found.step_ms == pytest.approx(expected)
    assert found.computing_ms == pytest.approx(computing)
    assert found.waiting_ms == pytest.approx(expected - computing)
    assert (found.low_ms, found.high_ms) == pytest.approx((expected - 0.75 * computing, expected + 0.25 * computing))


def test_the_longer_of_link_and_software() -> None:
    cell = StepCell("ddp", 4, 1e9, 10e6, 400.0, cores=2, messages=3)
    model = StepTime(link_overhead=1.1, ring_handling_ms=2.0, hop_ms=0.2, ring_overlap=0.25)
    software, link = 2.0 * 20 * 2 + 0.2 * 3 * 6, 1.1 * 80 - 0.25 * 80
    assert software > link
    assert not model.link_bound(cell)
    assert model.predict(cell).step_ms == pytest.approx(800 + software)
    slower = replace(cell, bits_per_second=8e8)
    assert model.link_bound(slower)
    assert model.predict(slower).step_ms == pytest.approx(800 + 1.1 * 100 - 0.25 * 100)


def test_local_steps_hide_nothing() -> None:
    cell = StepCell("local", 4, 1e8, 102e6 / 16, 400.0, messages=1 / 16)
    ideal = StepTime(link_overhead=1.0, ring_overlap=1.0)
    assert ideal.predict(cell).step_ms == pytest.approx(400.0 + 510.0)
    assert ideal.predict(replace(cell, mode="ddp")).step_ms == pytest.approx(510.0)


@pytest.mark.parametrize(("workers", "expected"), [(2, 1300.0), (3, 1300.0), (4, 1500.0), (17, 8000.0)])
def test_all_workers_share_the_servers_link(workers: int, expected: float) -> None:
    """400 ms of work, 500 ms to push and 400 ms to pull: with three remote workers the server's link is behind."""
    cell = StepCell("async", workers, 1e8, 6.25e6, 400.0, received_bytes_per_step=5e6)
    ideal = StepTime(link_overhead=1.0, server_overlap=1.0)
    assert ideal.predict(cell).step_ms == pytest.approx(expected)
    assert ideal.predict(replace(cell, remote_workers=workers)).step_ms == pytest.approx(max(1300.0, workers * 500.0))


def test_without_a_link_that_counts_only_the_rest_is_left() -> None:
    cell = StepCell("ddp", 4, None, 102e6, 400.0)
    assert StepTime().predict(cell).step_ms == 400.0
    assert StepTime().predict(replace(cell, cores=8)).step_ms == 400.0
    assert StepTime().predict(replace(cell, cores=1)).step_ms == 1600.0
    assert StepTime().predict(replace(cell, workers=1, cores=1)).step_ms == 400.0
    assert StepTime().predict(replace(cell, latency_ms=0.1)).step_ms == pytest.approx(400.6)


def test_parameters_are_found_again() -> None:
    cells = measured()
    found = fit(cells)
    for name in _BOUNDS:
        assert getattr(found, name) == pytest.approx(getattr(TRUTH, name), rel=1e-4), name
        assert found.intervals[name] == pytest.approx((getattr(TRUTH, name),) * 2, rel=1e-2), name
    assert max(map(abs, found.errors(cells))) < 1e-3
    assert found.error is not None
    assert found.error < 1e-4


def test_cells_that_the_fit_has_not_seen() -> None:
    """Fitted to two workers and to four without a throttled link: four on throttled ones are within a few percent."""
    cells = measured(noise=0.02)
    seen = [cell for cell in cells if cell.workers == 2 or cell.bits_per_second is None]
    unseen = [cell for cell in cells if cell not in seen]
    assert len(unseen) == 24
    errors = fit(seen).errors(unseen)
    assert max(map(abs, errors)) < 10.0
    assert np.median(np.abs(errors)) < 4.0


def test_cells_left_out_one_by_one() -> None:
    cells = [cell for cell in measured(noise=0.05) if not cell.through_server][:9]
    found = fit(cells, blocks=len(cells))
    for place in range(9):
        others = fit(cells[:place] + cells[place + 1 :])
        assert found.unseen[place] == pytest.approx(others.errors([cells[place]])[0], abs=1e-3)
    assert found.error == pytest.approx(np.quantile(np.abs(found.unseen), 0.9) / 100)


def test_intervals_hold_what_they_say() -> None:
    """Over 20 draws of the noise: 95 % intervals of parameters, and where nine of ten new cells should be."""
    within, inside = [], []
    for seed in range(20):
        found = fit(measured(noise=0.03, seed=seed))
        within += [low <= getattr(TRUTH, name) <= high for name, (low, high) in found.intervals.items()]
        for cell in measured(noise=0.03, seed=100 + seed):
            predicted = found.predict(cell)
            inside.append(predicted.low_ms <= cell.step_ms <= predicted.high_ms)
    assert len(within) == 20 * len(_BOUNDS)
    assert np.mean(within) > 0.88
    assert 0.8 < np.mean(inside) < 0.97


def test_least_squares_within_bounds_are_the_best_of_all_corners() -> None:
    generator, names = np.random.default_rng(0), ["link_overhead", "ring_handling_ms", "hop_ms", "ring_overlap"]
    low, high = np.array([_BOUNDS[name] for name in names]).T
    for _ in range(10):
        factors, left = generator.normal(size=(12, 4)), generator.normal(size=12) * 2
        best = math.inf
        for sides in itertools.product((None, low, high), repeat=4):
            held = np.array([math.nan if side is None else side[place] for place, side in enumerate(sides)])
            free = np.isnan(held)
            if not np.isfinite(held[~free]).all():
                continue
            held[free] = np.linalg.lstsq(factors[:, free], left - factors[:, ~free] @ held[~free], rcond=None)[0]
            if (held >= low - 1e-12).all() and (held <= high + 1e-12).all():
                best = min(best, float(np.square(factors @ held - left).sum()))
        found = _solved(factors, left, names)
        assert (found >= low).all()
        assert (found <= high).all()
        assert float(np.square(factors @ found - left).sum()) == pytest.approx(best, rel=1e-6)


def test_what_cells_do_not_say_keeps_its_default() -> None:
    cells = [cell for cell in measured() if cell.mode == "local" and cell.bits_per_second is not None]
    found = fit([replace(cell, cores=None) for cell in cells])
    assert set(found.intervals) == {"link_overhead"}
    assert (found.ring_overlap, found.server_overlap) == (StepTime().ring_overlap, StepTime().server_overlap)


def test_a_faster_link_is_never_slower() -> None:
    found = fit(measured(noise=0.1, seed=3))
    for cell in measured():
        times = [found.predict(replace(cell, bits_per_second=rate)).step_ms for rate in (1e7, 1e8, 1e9, 1e10, None)]
        assert times == sorted(times, reverse=True)


def test_a_table_of_errors() -> None:
    cells = measured(noise=0.05)[:6]
    lines = TRUTH.table(cells).splitlines()
    assert len(lines) == 7
    for line, error in zip(lines[1:], TRUTH.errors(cells), strict=True):
        assert line.endswith(f"{error:+.1f}%")


def test_too_little_is_said_so() -> None:
    for few in (0, 1):
        with pytest.raises(UserError, match=f"{few} cells are too few to fit a step's time"):
            fit(measured(noise=0.0)[:few])
    with pytest.raises(UserError, match="3 cells are too few to fit 2 parameters"):
        fit([cell for cell in measured() if cell.mode == "ddp" and cell.bits_per_second is not None][:3])
    planned = [replace(cell, step_ms=None) for cell in measured()]
    with pytest.raises(UserError, match=r"ddp, 2 workers\) has no step_ms"):
        fit(planned)
