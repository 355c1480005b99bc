"""Asynchronous training on two hosts: the first serves the weights, and what happens to the other is its own affair."""

import json
from pathlib import Path

import pytest
from multihost.launches import ENVIRONMENT, Torchrun
from multihost.network import Network
from train.launching import arguments, lines, make_corpus

STEPS = 400


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpora") / "corpus")


@pytest.fixture
def pace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of ``PacedTask``."""
    monkeypatch.setitem(ENVIRONMENT, "PYTHONPATH", str(Path(__file__).parents[1]))
    (tmp_path / "pace").mkdir()
    return tmp_path / "pace"


def words(corpus: Path, out: Path, pace: Path) -> list[str]:
    settings = {"steps": STEPS, "checkpoint_steps": 50, "evaluations": 1, "keep_last": 9}
    paced = {"task": "multihost.paced.PacedTask", "task__folder": pace}
    return [*arguments(corpus, out, **settings, **paced), "--parallel", "async"]


def steps(run: Path) -> int:
    """The last that was logged."""
    logged = lines(run / "metrics.jsonl")
    return logged[-1]["step"] if logged else 0


def test_a_worker_that_dies_costs_its_own_work_only(network: Network, corpus: Path, pace: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    running = Torchrun(network, words(corpus, out, pace), tmp_path / "logs")
    running.until(lambda: any(pace.glob("1-*")) and steps(out) >= 10)
    network.hosts[1].unplug()
    running.kill(1)
    seen = steps(out)
    running.still_at_work = {0}
    running.until(lambda: steps(out) >= seen + 20)
    (pace / "hold-0").touch()
    network.hosts[1].plug()
    running.start_again(1)
    running.still_at_work = {0, 1}
    running.until(lambda: len(list(pace.glob("1-*"))) == 2)
    (pace / "hold-0").unlink()
    assert running.wait() == [0, 0], running.output()
    assert "resumed" not in running.output()
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["state"], summary["step"]) == ("finished", STEPS)


def test_a_server_that_dies_is_a_clear_end_and_the_run_goes_on(
    network: Network, corpus: Path, pace: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    running = Torchrun(network, words(corpus, out, pace), tmp_path / "logs")
    running.until(lambda: any(pace.glob("1-*")) and steps(out) >= 60)
    running.kill(0)
    assert running.wait()[1] != 0
    said = running.output(1)
    assert said.count("overnight: The parameter server at ") == 1, said
    assert f"{out / 'checkpoints'}" in said
    again = Torchrun(network, ["train", str(out), "--resume", "--trust"], tmp_path / "logs")
    assert again.wait() == [0, 0], again.output()
    assert "resumed at step " in again.output(0)
    assert json.loads((out / "summary.json").read_text())["step"] == STEPS
