"""Budgets of whole runs, the spread of evaluations, and the batch arithmetic."""

import itertools
import math
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from train.launching import lines, tiny
from train.toys import toy

from overnight.errors import UserError
from overnight.train.batches import plan_batches
from overnight.train.budget import Budget
from overnight.train.launch import Options, train

QUIET = Options(quiet=True)


def test_epochs_of_a_run(corpus: Path, tmp_path: Path) -> None:
    run = tiny(corpus, steps=1, epochs=0.05, evaluations=0).with_setting("steps=None")
    summary = train(run, tmp_path / "run", QUIET)
    each = run.data(lanes=4, seed=0).steps_per_epoch
    assert summary["step"] == math.ceil(0.05 * each) == len(lines(tmp_path / "run" / "metrics.jsonl"))


def test_minutes_of_a_run_with_a_clock_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One second a look at the clock: the run ends when the budget does, its rate having fallen in a line."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
    run = toy(minutes=1, checkpoint_minutes=1000).with_setting("steps=None")
    summary = train(run, tmp_path / "run", QUIET)
    assert summary["state"] == "finished"
    assert 60 <= summary["seconds"] < 64
    read = lines(tmp_path / "run" / "metrics.jsonl")
    assert len(read) > 10
    assert all(line["seconds"] < 60 for line in read[:-1])
    for before, line in itertools.pairwise(read):
        assert line["lr"] == pytest.approx(0.05 * (1 - before["seconds"] / 60))


def test_a_run_in_minutes_goes_on_where_its_clock_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))
    run = toy(minutes=1, checkpoint_minutes=1000).with_setting("steps=None")
    first = train(run, tmp_path / "run", QUIET)
    second = train(run.with_setting("minutes=2"), tmp_path / "run", Options(quiet=True, resume=True))
    assert second["step"] > first["step"]
    assert 120 <= second["seconds"] < 124
    seconds = [line["seconds"] for line in lines(tmp_path / "run" / "metrics.jsonl")]
    assert seconds == sorted(seconds)


@pytest.mark.parametrize(("evaluations", "expected"), [(0, []), (1, [8]), (3, [3, 6, 8]), (8, list(range(1, 9)))])
def test_evaluations_are_spread_evenly(corpus: Path, tmp_path: Path, evaluations: int, expected: list[int]) -> None:
    train(tiny(corpus, steps=8, evaluations=evaluations, sample=None), tmp_path / "run", QUIET)
    assert [line["step"] for line in lines(tmp_path / "run" / "eval.jsonl")] == expected


@given(share=st.integers(1, 60), ranks=st.integers(1, 8), micro=st.one_of(st.none(), st.integers(1, 70)))
def test_lanes_are_shared_without_gaps(share: int, ranks: int, micro: int | None) -> None:
    batch = share * ranks
    try:
        plan = plan_batches(batch, ranks, micro)
    except UserError as error:
        assert micro is not None
        assert share % micro
        named = int(error.remedy.removeprefix("Take --micro-batch-size ").rstrip("."))
        assert share % named == 0
        assert named <= micro
        return
    read = [lane for rank in range(ranks) for first, count in plan.lanes(rank) for lane in range(first, first + count)]
    assert read == list(range(batch))
    assert plan.micro_batch_size * plan.grad_accum_steps == share


def test_an_epoch_need_not_be_a_whole_number_of_steps() -> None:
    run = replace(toy(), minutes=None, steps=None, epochs=25.0)
    for steps_per_epoch, steps in ((60_000 / 8192, 184), (60_000 / 100, 15_000), (7.0 / 5, 35), (49 / 0.7 / 10, 175)):
        assert Budget(run, steps_per_epoch).steps == steps
