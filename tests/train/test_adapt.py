"""Runs whose rate, batch and length DATE sets: its log, its way into checkpoints and back, ranks that decide alike."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from train.adapting import adapting, decisions, metrics, train_adapting
from train.launching import same_end
from train.on_ranks import on_ranks
from train.toys import toy

from overnight.comm.strategies import ddp
from overnight.errors import UserError
from overnight.scaling import DATE
from overnight.train.components import from_json
from overnight.train.launch import Options, train
from overnight.train.loop import Loop
from overnight.train.run import Run

QUIET, RESUME = Options(quiet=True), Options(quiet=True, resume=True)


def test_a_run_is_adapted_and_says_how(tmp_path: Path) -> None:
    summary = train(adapting(), tmp_path / "run", QUIET)
    assert summary["state"] == "finished"
    log, steps = decisions(tmp_path / "run"), metrics(tmp_path / "run")
    assert log[0]["step"] == 0
    assert all(line["why"] and line["text"].startswith("update ") for line in log)
    assert {"lr", "warmup", "global_batch_size"} <= {line["what"] for line in log}
    # it begins with half of the lanes a step, two updates a batch
    assert steps[0]["lr"] < 0.04
    assert [line["step"] for line in steps] == list(range(1, summary["step"] + 1))
    assert 40 <= summary["step"] <= 80
    state = json.loads(next((tmp_path / "run" / "checkpoints").glob("*/state.json")).read_text())
    assert state["adapt"]["batch"] == [8, 8]


def test_a_run_without_it_is_as_before(tmp_path: Path) -> None:
    train(toy(steps=3), tmp_path / "run", QUIET)
    assert not (tmp_path / "run" / "decisions.jsonl").exists()
    assert json.loads((tmp_path / "run" / "run.json").read_text())["run"]["adapt"] is None


def test_run_json_holds_it_and_settings_reach_it() -> None:
    run = adapting().with_setting("adapt.max_stretch=1.5").with_setting("adapt.baseline.warmup_samples=16")
    again = Run.from_json(json.loads(json.dumps(run.to_json())), trust=True)
    assert again.to_json() == run.to_json()
    assert run.to_json()["adapt"]["call"] == "overnight.scaling.DATE"
    assert from_json(run.to_json()["adapt"]).func is DATE  # it needs no trust
    assert again.adapt is not None
    assert again.adapt.keywords["max_stretch"] == 1.5
    with pytest.raises(UserError, match=r"adapt\.model is not a setting"):
        run.with_setting("adapt.model=1")


@pytest.mark.parametrize("bad", [(), ((25, "huge"),)])
def test_a_resumed_run_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: object) -> None:
    run = adapting(checkpoint_steps=7, keep_last=99)
    run = run._with("data", partial(run.data.func, bad=bad))
    train(run, tmp_path / "whole", QUIET)
    stop = Loop._log

    def killed(loop: Loop) -> None:
        stop(loop)
        if loop.state.step == 23:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "_log", killed)
    with pytest.raises(KeyboardInterrupt):
        train(run, tmp_path / "run", QUIET)
    monkeypatch.undo()
    train(run, tmp_path / "run", RESUME)
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")
    assert decisions(tmp_path / "run") == decisions(tmp_path / "whole")
    same_end(tmp_path / "run", tmp_path / "whole")
    assert any(line["what"] == "rollback" for line in decisions(tmp_path / "run")) == bool(bad)


def test_it_goes_back_on_a_spike_and_trains_on(tmp_path: Path) -> None:
    run = adapting()
    run = run._with("data", partial(run.data.func, bad=((20, "huge"),)))
    summary = train(run, tmp_path / "run", QUIET)
    (back,) = [line for line in decisions(tmp_path / "run") if line["what"] == "rollback"]
    assert back["step"] in (21, 22)
    losses = [line["loss"] for line in metrics(tmp_path / "run")]
    assert max(losses) > 1e3
    assert losses[-1] < 2 * losses[18]
    assert summary["state"] == "finished"


def test_too_many_spikes_end_the_run_with_a_word(tmp_path: Path) -> None:
    run = adapting({"rollbacks": 1})
    run = run._with("data", partial(run.data.func, bad=((20, "huge"), (25, "huge"))))
    with pytest.raises(UserError, match="wrong again after 1 rollbacks"):
        train(run, tmp_path / "run", QUIET)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["state"] == "failed"


def test_minutes_are_kept(tmp_path: Path) -> None:
    run = replace(adapting(), steps=None, minutes=0.01)
    summary = train(run, tmp_path / "run", QUIET)
    assert 0.5 < summary["seconds"] < 3


def test_two_ranks_decide_as_one(tmp_path: Path) -> None:
    results = on_ranks(train_adapting, tmp_path / "ranks", 2, tmp_path / "two", {"batch_warmup": 0.0}, {})
    assert [result["state"] for result in results] == ["finished"] * 2
    train_adapting(tmp_path / "one", {"batch_warmup": 0.0}, {})
    ours, theirs = decisions(tmp_path / "one"), decisions(tmp_path / "two")
    assert [(line["step"], line["what"]) for line in ours] == [(line["step"], line["what"]) for line in theirs]
    pairs = [(line["new"], other["new"]) for line, other in zip(ours, theirs, strict=True)]
    assert all(a == b or a == pytest.approx(b, rel=1e-6) for a, b in pairs)


def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    for run, word in (
        (adapting(micro_batch_size=8), "one micro-batch on one rank"),
        (adapting(optimizer__lr=0.03), "the baseline's 0.02"),
        (adapting()._with("parallel", partial(ddp)), "adapt needs gradients"),
    ):
        with pytest.raises(UserError, match=word):
            train(run, tmp_path / "run", QUIET)
        assert not (tmp_path / "run" / "run.json").exists()
