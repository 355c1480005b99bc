"""A run whose optimizer is boosted: what it writes down, resumes, does on two ranks, and refuses."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from train.on_ranks import on_ranks
from train.toys import HalfModel, NoBoost, toy
from train.work import train_toy

from overnight.comm import strategies
from overnight.comm.asynchronous import asynchronous
from overnight.errors import UserError
from overnight.optim import SEBoost
from overnight.optim.subspace import Fixed
from overnight.scaling import DATE
from overnight.train.checkpoint import load_checkpoint
from overnight.train.launch import Options, train
from overnight.train.run import Run

QUIET = Options(quiet=True)
BOOST = {"boost": "overnight.optim.SEBoost", "boost__every": 3, "boost__history": 2, "optimizer__lr": 0.01}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(folder / "checkpoints" / f"{step:08d}").model)


def test_boosts_are_made_where_they_are_due_and_written_down(tmp_path: Path) -> None:
    settings = {"steps": 10, "checkpoint_steps": 1, "keep_last": 99}
    train(toy(**settings, optimizer__lr=0.01), tmp_path / "plain", QUIET)
    train(toy(**settings, **BOOST), tmp_path / "boosted", QUIET)
    found = lines(tmp_path / "boosted")
    assert [line["step"] for line in found] == [3, 6, 9]
    assert all(line["what"] == "boost" and line["new"] <= line["old"] for line in found)
    assert any(line["new"] < line["old"] for line in found)
    assert found[0]["text"].startswith("boost 1: loss ")
    for step in range(1, 4):
        ours, theirs = (weights(tmp_path / name, step) for name in ("boosted", "plain"))
        same = all(torch.equal(ours[name], theirs[name]) for name in ours)
        assert same == (step < 3 or found[0]["new"] == found[0]["old"])
    assert not (tmp_path / "plain" / "decisions.jsonl").exists()


def test_a_resumed_run_is_the_same_to_the_bit(tmp_path: Path) -> None:
    run = toy(steps=10, checkpoint_steps=5, keep_last=99, **BOOST)
    train(run, tmp_path / "whole", QUIET)
    train(run, tmp_path / "again", QUIET)
    train(run, tmp_path / "again", Options(resume=True, checkpoint="5", quiet=True))
    ours, theirs = (load_checkpoint(tmp_path / name / "checkpoints" / "00000010") for name in ("again", "whole"))
    for group in ("model", "optimizer"):
        mine, its = getattr(ours, group), getattr(theirs, group)
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[name], its[name]) for name in mine)
    assert "0.boost_row_1" in ours.optimizer
    assert lines(tmp_path / "again") == lines(tmp_path / "whole")


def test_two_ranks_are_one(tmp_path: Path) -> None:
    settings = {"steps": 8, "checkpoint_steps": 8, **BOOST}
    train(toy(**settings), tmp_path / "one", QUIET)
    for result in on_ranks(train_toy, tmp_path / "out", 2, tmp_path / "two", settings):
        assert not isinstance(result, BaseException), result
    ours, theirs = (lines(tmp_path / name) for name in ("two", "one"))
    assert len(ours) == len(theirs) == 2
    for mine, its in zip(ours, theirs, strict=True):
        assert mine["old"] == pytest.approx(its["old"], rel=1e-10)
        assert mine["numbers"]["coefficients"] == pytest.approx(its["numbers"]["coefficients"], rel=1e-6)
    for name, value in weights(tmp_path / "two", 8).items():
        torch.testing.assert_close(value, weights(tmp_path / "one", 8)[name], rtol=1e-9, atol=1e-12)


def test_a_rule_is_a_component_and_goes_through_run_json(tmp_path: Path) -> None:
    boost = partial(SEBoost, rule=partial(Fixed, step=0.5), every=3, history=1)
    run = replace(toy(steps=6, optimizer__lr=0.01), boost=boost)
    run = Run.from_json(json.loads(json.dumps(run.to_json())), trust=True).with_setting("boost.rule.step=1.75")
    train(run, tmp_path / "run", QUIET)
    found = lines(tmp_path / "run")
    assert [line["numbers"]["coefficients"] for line in found] == [[0.75], [0.75]]
    assert all(line["new"] < line["old"] for line in found)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "of DATE": ({"adapt": partial(DATE)}, "adapt measures steps, and boost jumps between them."),
    "local steps": (
        {"parallel": partial(strategies.local, every=2)},
        "A boost needs the same weights on every rank at every step",
    ),
    "asynchronous": ({"parallel": partial(asynchronous)}, "A boost needs the same weights on every rank at every step"),
    "fp16": ({"precision": "fp16", "model": partial(HalfModel)}, "The losses of a boost have no loss scale."),
    "every": ({"boost": partial(SEBoost, every=0)}, "every=0 (l, the steps between boosts) is not a whole number"),
    "another": (
        {"boost": partial(torch.optim.SGD, lr=0.1)},
        "The boost (torch.optim.SGD) does not accept its settings",
    ),
    "no boost": ({"boost": partial(NoBoost)}, "train.toys.NoBoost does not boost."),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_boosted(name: str, tmp_path: Path) -> None:
    changes, words = REFUSED[name]
    run = replace(toy(**BOOST), **changes)
    with pytest.raises(UserError) as caught:
        train(run, tmp_path / "run", QUIET)
    assert caught.value.problem.startswith(words)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_what_the_trainer_gives_is_no_setting() -> None:
    with pytest.raises(UserError, match=r"boost\.batches is not a setting: it follows from data"):
        toy(**BOOST).with_setting("boost.batches=1")
