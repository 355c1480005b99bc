"""Runs around a parameter server: alone they are plain runs, workers may die and come back, a dead server is told."""

import json
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from train.launching import LOOPBACK, SERVER, Ranks, _enter, arguments, free_port, lines, overnight, start, tiny
from train.toys import toy

from overnight.comm.asynchronous import asynchronous
from overnight.errors import UserError
from overnight.train.asynchronous.place import find_place
from overnight.train.checkpoint import Checkpoint, load_checkpoint
from overnight.train.launch import Options, train
from overnight.train.run import Run

QUIET = Options(quiet=True)


def alone(run: Run, **settings: Any) -> Run:
    return replace(run, parallel=partial(asynchronous, **settings))


def last(folder: Path) -> Checkpoint:
    return load_checkpoint(sorted((folder / "checkpoints").glob("0*"))[-1])


def same(one: Checkpoint, other: Checkpoint) -> None:
    for group in ("model", "optimizer", "carry", "ema"):
        mine, its = getattr(one, group), getattr(other, group)
        assert mine.keys() == its.keys()
        assert all(torch.equal(tensor, its[name]) for name, tensor in mine.items()), group
    for name in ("step", "applied", "tokens", "skipped", "best"):
        assert one.state[name] == other.state[name]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "torch.optim.AdamW", "micro_batch_size": 2, "max_norm": 0.1},
        {"data__bad": ((3, "loss"), (4, "gradient"))},
    ],
    ids=["sgd", "accumulation, clipping", "skips"],
)
def test_a_run_of_one_rank_is_the_plain_run_bit_for_bit(tmp_path: Path, settings: dict[str, Any]) -> None:
    run = toy(**settings)
    ended = train(run, tmp_path / "plain", QUIET)
    found = train(alone(run), tmp_path / "async", QUIET)
    same(last(tmp_path / "async"), last(tmp_path / "plain"))
    timed = {"seconds", "tokens_per_s"}
    told = [[{k: v for k, v in line.items() if k not in timed} for line in lines(tmp_path / name / "metrics.jsonl")]
            for name in ("plain", "async")]  # fmt: skip
    assert told[0] == told[1]
    assert {k: v for k, v in found.items() if k != "seconds"} == {k: v for k, v in ended.items() if k != "seconds"}


@pytest.mark.parametrize("ways", [(True, False), (False, True), (True, True)])
def test_checkpoints_are_the_ordinary_ones(tmp_path: Path, ways: tuple[bool, bool]) -> None:
    run = toy(checkpoint_steps=3, keep_last=9, ema="overnight.train.average.WeightAverage", ema__decay=0.5)
    train(run, tmp_path / "plain", QUIET)
    first, then = (alone(run) if way else run for way in ways)
    train(first, tmp_path / "run", QUIET)
    train(then, tmp_path / "run", Options(quiet=True, resume=True, checkpoint="3" if ways[0] else "6"))
    same(last(tmp_path / "run"), last(tmp_path / "plain"))


def test_averaged_weights_are_evaluated_and_best_is_what_was_evaluated(corpus: Path, tmp_path: Path) -> None:
    average: dict[str, Any] = {"ema": "overnight.train.average.WeightAverage", "ema__decay": 0.5, "keep_last": 9}
    run = tiny(corpus, evaluations=3, **average)
    train(run, tmp_path / "plain", QUIET)
    train(alone(run), tmp_path / "async", QUIET)
    one, other = (lines(tmp_path / name / "eval.jsonl") for name in ("plain", "async"))
    assert [line["bits_per_byte"] for line in one] == [line["bits_per_byte"] for line in other]
    for step in (4, 8, 12):
        same(*(load_checkpoint(tmp_path / name / "checkpoints" / f"{step:08d}") for name in ("async", "plain")))


def begin(argv: list[str], logs: Path) -> tuple[Ranks, dict[str, str]]:
    """Rank 0 and 1 of an asynchronous run, and the environment of another that joins."""
    port = {"MASTER_PORT": str(free_port())}
    joined = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "RANK": "1", "LOCAL_RANK": "1"} | port | LOOPBACK
    return start([*argv, "--parallel", "async"], logs, 2, env=port), joined


@pytest.mark.parametrize("settings", [[], ["--set", "parallel.pushes_per_update=2", "--set", "parallel.dtype=bf16"]])
def test_two_ranks_make_every_step_and_ddp_goes_on(corpus: Path, tmp_path: Path, settings: list[str]) -> None:
    out = tmp_path / "run"
    argv = arguments(corpus, out, steps=12, checkpoint_steps=6, keep_last=9)
    overnight([*argv, "--parallel", "async", *settings], tmp_path / "logs", 2)
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["state"], summary["step"], summary["tokens"]) == ("finished", 12, 12 * 4 * 8)
    saved = last(out)
    assert saved.state["applied"] == 12 * 4
    assert {tensor.shape[0] for tensor in saved.carry.values()} == {4}
    assert all(bool(tensor.abs().sum(tuple(range(1, tensor.ndim))).all()) for tensor in saved.carry.values())
    # a line between two updates has heard of no push
    assert sum(line.get("sent_bytes", 0) for line in lines(out / "metrics.jsonl")) > 0
    go_on = ["train", str(out), "--resume", "--set", "steps=16", "--set", "parallel=overnight.comm.strategies.ddp"]
    overnight(go_on, tmp_path / "logs", 2)
    assert last(out).state["step"] == 16


def test_a_killed_worker_is_missed_by_nobody_and_its_successor_joins(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    argv = arguments(corpus, out, steps=1000, evaluations=1, data__length=8)
    running, joined = begin(argv, tmp_path / "logs")
    running.until(lambda: len(lines(out / "metrics.jsonl")) > 5)
    running.children[1].kill()
    running.children[1].join()
    seen = len(lines(out / "metrics.jsonl"))
    log = tmp_path / "logs" / "again.txt"
    log.touch()
    again = SERVER.Process(target=_enter, args=([*argv, "--parallel", "async"], joined, log, None), daemon=True)
    again.start()
    until(lambda: any(line.get("sent_bytes") == 0 for line in lines(out / "metrics.jsonl")[seen:]))
    until(lambda: lines(out / "metrics.jsonl")[-1].get("sent_bytes", 0) > 0)
    running.signal(signal.SIGINT)
    again.join(60)
    codes = running.wait(60)
    assert codes == [128 + signal.SIGINT, -signal.SIGKILL], running.output()
    assert again.exitcode == 128 + signal.SIGINT, log.read_text()
    saved = last(out)
    assert saved.state["step"] > seen
    assert json.loads((out / "summary.json").read_text())["state"] == "stopped"


def test_a_dead_server_is_told_with_the_last_checkpoint_and_the_run_goes_on(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    running, _ = begin(arguments(corpus, out, steps=5000, evaluations=1, checkpoint_steps=5), tmp_path / "logs")
    running.until(lambda: (out / "checkpoints").is_dir() and len(list((out / "checkpoints").glob("0*"))) > 1)
    running.children[0].kill()
    codes = running.wait(60)
    assert codes == [-signal.SIGKILL, 2]
    said = " ".join(running.logs[1].read_text().split())
    assert "The parameter server at 127.0.0.1:" in said
    assert "The last checkpoint is" in said
    assert str(out / "checkpoints") in said
    assert "Traceback" not in said
    step = last(out).state["step"]
    go_on = ["train", str(out), "--resume", "--set", f"steps={step + 3}"]
    overnight(go_on, tmp_path / "logs", 2)
    assert last(out).state["step"] == step + 3


def test_a_run_that_fails_on_rank_0_fails_everywhere(corpus: Path, tmp_path: Path) -> None:
    argv = arguments(corpus, tmp_path / "run", steps=500, optimizer__lr=1e30, max_norm=None, max_skipped=4)
    running, _ = begin(argv, tmp_path / "logs")
    assert running.wait(60) == [2, 2], running.output()
    assert "gave a loss or gradient that is not finite" in running.logs[0].read_text()


def test_wrong_settings_are_told(tmp_path: Path) -> None:
    for settings, said in (({"max_staleness": -1}, "max_staleness"), ({"hidden": (("nothing*", 4),)}, "nothing")):
        with pytest.raises(UserError, match=said):
            train(alone(toy(), **settings), tmp_path / said, QUIET)
        assert not list((tmp_path / said).glob("*.json*"))  # so that the corrected command finds no run there


def until(found: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "http"}, "MASTER_PORT='http' is no port"),
        ({"MASTER_ADDR": "127.0.0.1"}, "RANK is set, but not MASTER_PORT"),
    ],
)
def test_an_environment_that_is_not_whole(monkeypatch: pytest.MonkeyPatch, given: dict[str, str], problem: str) -> None:
    monkeypatch.delenv("MASTER_PORT", raising=False)
    for name, value in ({"RANK": "1", "WORLD_SIZE": "2"} | given).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=problem):
        find_place("cpu", 1.0)
