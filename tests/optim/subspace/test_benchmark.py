"""benchmarks.seboost: budgets, a grid that grows, what is compared, and that it resumes."""

import math
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[3]))

from benchmarks.seboost import __main__ as program
from benchmarks.seboost.cells import overhead, run
from benchmarks.seboost.plot import plot
from benchmarks.seboost.summary import best, compared, interval, logs, print_summary, read, usable
from benchmarks.seboost.tasks import regression
from overnight.errors import UserError


def test_a_budget_counts_what_boosts_take() -> None:
    task = regression(Path())
    alone = run(task, "momentum", "base", 0.03, "cosine", 0, 4, 24, "gradients")
    ours = run(task, "momentum", "boost", 0.03, "cosine", 0, 4, 24, "gradients")
    assert (alone["steps"], alone["gradients"], alone["boosts"]) == (24, 24.0, 0)
    assert ours["boosts"] >= 2
    assert ours["steps"] + 5 * ours["boosts"] <= ours["gradients"] <= ours["steps"] + 7 * ours["boosts"]
    assert 24 <= ours["gradients"] < 24 + 8
    timed = run(task, "adam", "boost", 0.01, "constant", 0, 4, alone["cpu_s"], "seconds")
    assert timed["cpu_s"] >= alone["cpu_s"]
    assert math.isfinite(timed["test"])


def test_overhead_at_the_defaults_counts_five_gradients_and_three_forwards() -> None:
    found = overhead(regression(Path()), "momentum", 0.03, rounds=1)
    assert found["weights"] == 229
    assert found["percent_of_gradients"] == pytest.approx(3.0)
    assert found["percent_of_cpu"] > 0


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Losses that are lowest at a rate of 0.3 alone, and boosted at all up to 1: the middle of the grid is 0.03."""
    calls: list[tuple[Any, ...]] = []

    def instead(task: Any, base: str, arm: str, rate: float, schedule: str, seed: int, every: int, budget: float,
                unit: str) -> dict[str, Any]:  # fmt: skip
        calls.append((arm, rate, schedule, seed, unit, budget))
        away = abs(math.log10(rate / 0.3))
        loss = 1 + (away if arm == "base" else 0.1 * away) + 0.01 * (schedule == "cosine")
        loss = math.nan if rate > 2 else loss
        return {"held_out": loss, "test": 2 * loss + 0.1 * seed, "test_wrong": 0.0, "cpu_s": 10.0 + seed}

    monkeypatch.setattr(program, "run", instead)
    return calls


def test_the_grid_grows_to_the_best_rate_and_is_the_same_for_all(
    made_up: list[tuple[Any, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs.jsonl"

    def measured() -> list[dict[str, Any]]:
        results = program.Results(path, cpu_minutes=1e9)
        program.experiment_of("regression", "momentum", ("base", "boost"), tmp_path, results)
        return results.runs

    runs = measured()
    tried = {
        arm: sorted({rate for a, rate, _, seed, *_ in made_up if a == arm and not seed}) for arm in ("base", "boost")
    }
    assert tried["base"] == tried["boost"] == [0.003, 0.00949, 0.03, 0.0949, 0.3, 0.949]
    assert best(runs, "regression", "momentum", "base") == (0.3, "constant")
    # the other seeds: the base optimizer first, whose seconds the arm then has
    later = [(arm, seed, unit, budget) for arm, _, _, seed, unit, budget in made_up if seed]
    assert later[:3] == [("base", 1, "gradients", 2000), ("boost", 1, "gradients", 2000), ("boost", 1, "seconds", 11.0)]
    assert len(later) == 6
    count = len(made_up)
    assert len(measured()) == len(runs) == count == len(made_up) == len(read(path))
    assert usable(runs, "regression", "momentum", "base", "constant") == 1
    assert usable(runs, "regression", "momentum", "boost", "constant") == 4
    pairs = compared(runs, "regression", "momentum", "boost", "seconds")
    assert [(a["seed"], b["seed"]) for a, b in pairs] == [(1, 1), (2, 2)]
    assert logs(pairs) == pytest.approx([0.0, 0.0], abs=1e-12)
    print_summary(runs)
    assert "| regression | momentum | boost | 2.15 | 2.15 | +0.0 % [+0.0, +0.0]" in capsys.readouterr().out


def test_intervals_are_students() -> None:
    middle, half = interval([1.0, 2.0, 3.0])
    assert (middle, half) == (2.0, pytest.approx(4.303 / math.sqrt(3), rel=1e-3))
    assert math.isinf(interval([1.0])[1])


def test_a_plot_of_the_runs(made_up: list[tuple[Any, ...]], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = program.Results(tmp_path / "runs.jsonl", cpu_minutes=1e9)
    with pytest.raises(UserError, match="There is nothing to draw"):
        plot(results.runs, tmp_path / "none.png")
    program.experiment_of("regression", "momentum", ("base", "boost"), tmp_path, results)
    plot(results.runs, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
