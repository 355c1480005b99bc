"""The grid of large batches: what an arm trains, what a search tries, when quality is kept, and that it resumes."""

import doctest
import importlib
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.digits import write_digits

from overnight.data.lanes import LaneBatch
from overnight.errors import UserError
from overnight.models.word_lm import WordLM
from overnight.tasks.word_model import WordModelTask
from overnight.train.run import Run

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.large_batch import __main__ as program
from benchmarks.large_batch.applications import APPLICATIONS, Application, Choice
from benchmarks.large_batch.arms import Arm, Cell
from benchmarks.large_batch.cells import Settings, load, train_cell, tune
from benchmarks.large_batch.frozen import Frozen, Trial, climb
from benchmarks.large_batch.gpu import gpu_cells, gpu_plan
from benchmarks.large_batch.table import print_tables, rows
from benchmarks.large_batch.verdict import largest_within, verdicts
from benchmarks.large_batch.windows import WindowedWordTask


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits") / "mnist")


MNIST = APPLICATIONS["mnist-lstm"]


def small(corpus: Path, choice: Choice) -> Run:
    """MNIST-LSTM with 8 units and batches of 8."""
    run = replace(
        MNIST.make(corpus, replace(choice, trial=False, warmup_steps=0)), global_batch_size=8, precision="fp32"
    )
    run = run.with_setting("model.hidden_size=8").with_setting(f"schedule.warmup_samples={8 * choice.warmup_steps}")
    return replace(run, evaluations=2)


APP = replace(
    MNIST, batch=8, batches=(16, 24), beyond=(120,), epochs=2, warmup_steps=3, micro=8, target=0.05, make=small,
    trials=2, trial_epochs=1,
)  # fmt: skip


@pytest.mark.parametrize("name", ["arms", "cells", "frozen"])
def test_docstrings(name: str) -> None:
    found = doctest.testmod(importlib.import_module(f"benchmarks.large_batch.{name}"))
    assert found.attempted
    assert not found.failed


def run_of(app: Application, corpus: Path, arm: str, batch: int) -> Run:
    return Cell(app, Arm.parse(arm), batch).run(corpus, Frozen(app, corpus / "none"))


def test_arms_scale_the_rate_and_the_warm_up(digits: Path) -> None:
    found = {arm: run_of(APP, digits, arm, 32) for arm in ("none", "linear", "sqrt", "legw")}
    rates = {arm: run.optimizer.keywords["lr"] / 0.4 for arm, run in found.items()}
    assert rates == pytest.approx({"none": 1, "linear": 4, "sqrt": 2, "legw": 2})
    warmups = {arm: run.schedule.keywords["warmup_samples"] for arm, run in found.items()}
    assert warmups == {"none": 24, "linear": 24, "sqrt": 24, "legw": 96}
    assert {run.global_batch_size for run in found.values()} == {32}
    assert {run.micro_batch_size for run in found.values()} == {8}
    assert run_of(APP, digits, "legw+twice", 32).epochs == 4


def test_legw_is_cut_only_where_its_warm_up_is_longer_than_the_run(digits: Path) -> None:
    fits = run_of(APP, digits, "legw", 60)  # 180 of 240 samples
    assert fits.schedule.keywords["warmup_samples"] == 180
    assert "cut" not in fits.notes[-1]
    cut = run_of(APP, digits, "legw", 120)
    assert cut.schedule.keywords["warmup_samples"] == pytest.approx(72)
    assert cut.notes[-1].endswith("LEGW's 3 warm-up steps cut to 1, 30 % of the run")


def test_arms_that_follow_the_noise_scale(digits: Path) -> None:
    date, equal = run_of(APP, digits, "date", 48), run_of(APP, digits, "date+equal", 48)
    adascale = run_of(APP, digits, "adascale", 48)
    assert date.adapt is not None
    assert equal.adapt is not None
    assert adascale.adapt is not None
    assert (date.micro_batch_size, date.optimizer.keywords["lr"]) == (8, 0.4)
    assert equal.adapt.keywords["fixed"] == ("total_samples",)
    assert adascale.adapt.keywords["adaptive"] is False
    assert adascale.adapt.keywords["batch_warmup"] == 0


@pytest.mark.parametrize(
    ("arm", "batch", "said"),
    [
        ("legw", 8, "The arm legw is not for batch 8"),
        ("base", 16, "The arm base is not for batch 16"),
        ("adascale:lamb", 16, "AdaScale is for SGD"),
        ("legw+equal", 16, "The samples of legw are equal already"),
        ("legw+lanes", 16, "The control \\+lanes is for word models"),
        ("legw:madgrad", 16, "mnist-lstm has no rate for madgrad"),
        ("oracle:adam", 16, "The oracle has no other optimizer"),
        ("adam_sde", 16, "the baseline has none"),
    ],
)
def test_arms_that_cannot_be(digits: Path, arm: str, batch: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        run_of(APP, digits, arm, batch)


@pytest.mark.parametrize("text", ["best", "legw+more"])
def test_an_arm_that_there_is_not(text: str) -> None:
    with pytest.raises(UserError, match="There is no arm"):
        Arm.parse(text)


def test_a_search_stops_at_its_budget_and_takes_failures_as_worse() -> None:
    assert [trial.lr for trial in climb(lambda lr: Trial(lr, lr), 1.0, 4)] == [1, 2, 4, 8]
    seen = climb(lambda lr: Trial(lr, None if lr > 1 else -lr), 1.0, 5)
    assert [trial.lr for trial in seen] == [1, 2, 0.5, 0.25, 0.125]


def cell(batch: int, arm: str, final: float | None, seed: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "batch": batch, "k": batch / 128, "arm": arm, "final": final, "best": final, "seed": seed, "lr": 1.0,
        "warmup_steps": 64, "updates": 100 * 128 / batch, "seconds": 10.0, "epochs": 25.0, "note": "",
        "epochs_to_target": None, "updates_to_target": None, "curve": [], **more,
    }  # fmt: skip


def test_verdicts() -> None:
    base = [cell(128, "base", value, seed) for seed, value in enumerate((0.9900, 0.9901, 0.9902))]
    others = {
        "held": (0.9899, 0.9900, 0.9901),
        "lost": (0.980, 0.981, 0.980),
        "open": (0.9895, 0.9890, 0.9885),
        "diverged": (0.99, None, 0.99),
    }
    cells = base + [cell(512, name, value, seed) for name, of in others.items() for seed, value in enumerate(of)]
    found = {one.arm: one for one in verdicts(MNIST, cells)}
    assert {name: found[name].said for name in others} == {name: name for name in others}
    # of three seeds each with variances 1e-8: half width t(4) · sqrt(2e-8 / 3) = 2.776 · 8.165e-5, loss 1e-4
    assert found["held"].loss == pytest.approx(0.1)
    assert found["held"].half_width == pytest.approx(2.776 * math.sqrt(2e-8 / 3) / 1e-3, rel=1e-3)
    one = verdicts(MNIST, [cell(128, "base", 0.99), cell(512, "legw", 0.9891), cell(2048, "legw", 0.9889)])
    assert [verdict.said for verdict in one] == ["", "within", "beyond"]
    gain = largest_within(MNIST, one, "legw")
    assert gain is not None
    assert (gain.batch, gain.steps, gain.seconds) == (512, 4, 1)
    words = APPLICATIONS["ptb-small"]
    one = verdicts(words, [cell(20, "base", 116.0), cell(640, "a", 117.1), cell(640, "b", 117.2), cell(640, "c", 100)])
    assert [verdict.said for verdict in one] == ["", "within", "beyond", "within"]


def test_windows_are_steps_at_the_same_weights() -> None:
    """The gradient of k windows is the mean of theirs, and the state goes on from one to the next."""
    torch.manual_seed(0)
    model = WordLM(11, 6, 6, 2, init_range=0.3)
    ids, targets = torch.randint(11, (12, 3)), torch.randint(11, (12, 3))
    batch = LaneBatch(ids, targets, torch.zeros(12, 3, dtype=torch.bool))
    plain = WordModelTask(model, reduction="sum_over_time")
    carry = plain.initial_carry(3)
    for first in (0, 4, 8):
        part = slice(first, first + 4)
        loss = plain(LaneBatch(ids[part], targets[part], batch.reset_TB[part]), carry)
        assert loss.objective is not None
        (loss.objective / loss.count / 3).backward()
        carry = loss.carry
    expected = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    whole = WindowedWordTask(model, windows=3, reduction="sum_over_time")
    found = whole(batch, whole.initial_carry(3))
    assert found.objective is not None
    assert found.count == 36
    (found.objective / found.count).backward()
    for one, other in zip(expected, (p.grad for p in model.parameters() if p.grad is not None), strict=True):
        torch.testing.assert_close(one, other)
    for name, state in carry.items():
        torch.testing.assert_close(found.carry[name], state)
    with pytest.raises(UserError, match="no 5 windows"):
        WindowedWordTask(model, windows=5)(batch, whole.initial_carry(3))


def test_a_grid_is_tuned_trained_resumed_and_told(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(tmp_path, digits, device="cpu")
    tune(APP, "momentum", settings)
    frozen = json.loads((tmp_path / APP.name / "frozen.json").read_text())
    trials = [trial["lr"] for trial in frozen["base"]["momentum"]["trials"]]
    assert trials == [0.4, 0.8]
    assert frozen["base"]["momentum"]["lr"] in trials
    before = (tmp_path / APP.name / "frozen.json").stat().st_mtime_ns
    tune(APP, "momentum", settings)
    assert (tmp_path / APP.name / "frozen.json").stat().st_mtime_ns == before
    cells = program.grid(APP, [16, 120], ["legw", "oracle"], [0], None)
    assert [one.name for one in cells] == [
        "8-base-0", "16-legw-0", "16-oracle-0", "120-legw-0", "120-oracle-0",
    ]  # fmt: skip
    program.run_all(APP, settings, cells[:3])
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("summary.json")}
    program.run_all(APP, settings, [*cells[:4], Cell(APP, Arm("date"), 48)])
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
    found = load(APP, tmp_path)
    date = found.pop(3)
    assert [(one["batch"], one["arm"]) for one in found] == [(8, "base"), (16, "legw"), (16, "oracle"), (120, "legw")]
    assert [one["updates"] for one in found] == [30, 15, 15, 2]
    assert (date["arm"], date["rates"][0]) == ("date", pytest.approx(frozen["base"]["momentum"]["lr"] * 3**0.5))
    assert date["updates"] > 5  # it begins at half the batch, which three micro-batches make
    oracle = json.loads((tmp_path / APP.name / "frozen.json").read_text())["oracle"]["16"]
    assert set(oracle) == {"adam", "nesterov"}
    assert all(len(one["trials"]) == 2 for one in oracle.values())
    capsys.readouterr()
    print_tables(tmp_path, [APP])
    said = capsys.readouterr().out
    assert "| 120 | 15 | legw |" in said
    assert ", cut |" in said
    assert said.count("Tuned, 16, ") == 2


def test_a_rate_that_does_not_train_is_a_result(digits: Path, tmp_path: Path) -> None:
    app = replace(APP, rates={"momentum": 1e39}, optimizer="momentum")
    settings = Settings(tmp_path, digits, device="cpu")
    found = train_cell(Cell(app, Arm("base"), 8), settings)
    assert found["final"] is None
    assert "failed" in found
    assert "did not train (1 of 1)" in rows(app, [found], [])[-1]
    assert train_cell(Cell(app, Arm("base"), 8), settings) == found


def test_what_a_gpu_would_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [one.name for one in gpu_cells(APPLICATIONS["ptb-large"], [0])]
    assert "640-legw+lanes-0" in names
    assert "1280-date-0" in names
    assert len(names) == len(set(names))
    assert not any("adascale" in one.name for one in gpu_cells(APPLICATIONS["gnmt-wmt16"], [0]))
    assert list(gpu_plan(tmp_path, ["ptb-large=PTB"], [0], dry_run=True)) == []
    assert "ptb-large: tune sgd, lars, lamb at batch 20" in capsys.readouterr().out
    for text in ("ptb-large", "ptb=PTB"):
        with pytest.raises(UserError, match="is no APP=DATA"):
            list(gpu_plan(tmp_path, [text], [0], dry_run=True))
