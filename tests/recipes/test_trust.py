"""A run.json may come from anybody: what it names outside overnight and torch is not even imported."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from overnight.cli import main
from overnight.recipes.byte_lm import byte_lm

CUSTOM = """
from pathlib import Path
from torch.optim import SGD

Path(__file__).with_name("imported").touch()


class Custom(SGD):
    pass
"""


def write_run(folder: Path, corpus: Path, **parts: Any) -> Path:
    """A run folder of two steps, with some of its parts exchanged."""
    run = byte_lm(corpus, batch_size=4, length=8, steps=2, evaluations=0)
    content = run.with_setting("model.hidden_size=8").to_json() | {"evaluate": None, "baselines": None} | parts
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"format": "overnight-run/1", "run": content}))
    return folder


@pytest.fixture
def custom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that leaves a file where it is imported; returns that file."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "custom_optimizer.py").write_text(CUSTOM)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    monkeypatch.delitem(sys.modules, "custom_optimizer", raising=False)
    return tmp_path / "modules" / "imported"


def refused(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    capsys.readouterr()
    assert main([str(argument) for argument in argv]) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert len(said.err.splitlines()) == 1
    return said.err


@pytest.mark.parametrize("part", ["model", "task", "data", "optimizer", "schedule", "evaluate"])
def test_a_command_in_a_run_json_is_not_run(
    tmp_path: Path, corpus: Path, part: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[str] = []
    monkeypatch.setattr(os, "system", called.append)
    run = write_run(tmp_path / "run", corpus, **{part: {"call": "os.system", "kwargs": {"command": "true"}}})
    (run / "checkpoints").mkdir()
    out = tmp_path / "out"
    for argv in (("train", run / "run.json", "--out", out), ("train", run, "--resume")):
        said = refused(capsys, *argv)
        assert "'os.system'" in said
        assert "--trust" in said
    assert not out.exists()
    assert called == []


def test_generate_refuses_it_too(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[str] = []
    monkeypatch.setattr(os, "system", called.append)
    source = write_run(tmp_path / "source", corpus)
    run = tmp_path / "run"
    assert main(["train", str(source / "run.json"), "--out", str(run), "--device", "cpu", "--set", "threads=1"]) == 0
    content = json.loads((run / "run.json").read_text())
    content["run"]["model"] = {"call": "os.system", "kwargs": {"command": "true"}}
    (run / "run.json").write_text(json.dumps(content))
    assert "'os.system'" in refused(capsys, "generate", run, "--length", 1, "--device", "cpu")
    assert called == []


@pytest.mark.parametrize(
    "path", ["overnight.cli.main", "torch.load", "torchy.optim.SGD", "builtins.eval", "subprocess.run"]
)
def test_names_near_the_trusted_ones_are_not_trusted(
    tmp_path: Path, corpus: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", corpus, optimizer={"call": path, "kwargs": {}})
    assert repr(path) in refused(capsys, "train", run / "run.json", "--out", tmp_path / "out")


def test_trust_lets_a_part_of_ones_own_through(
    tmp_path: Path, corpus: Path, custom: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optimizer = {"call": "custom_optimizer.Custom", "kwargs": {"lr": 0.1}}
    run = write_run(tmp_path / "run", corpus, optimizer=optimizer)
    argv = ["train", str(run / "run.json"), "--out", str(tmp_path / "out"), "--device", "cpu", "--set", "threads=1"]
    assert "'custom_optimizer.Custom'" in refused(capsys, *argv)
    assert not custom.exists()
    assert main([*argv, "--trust"]) == 0
    assert custom.exists()
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["state"] == "finished"


@pytest.mark.parametrize(
    "path",
    [
        "overnight.data.ingest.preparation.prepare",
        "overnight.data.builtin.builtin_corpus",
        "overnight.train.folder.remove_folder",
        "torch.load",
    ],
)
def test_what_writes_or_loads_files_is_no_component(
    tmp_path: Path, corpus: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = {"call": path, "kwargs": {"sources": [str(corpus)], "out": str(tmp_path / "victim")}}
    run = write_run(tmp_path / "run", corpus, model=model)
    said = refused(capsys, "train", run / "run.json", "--out", tmp_path / "out")
    assert f"'{path}'" in said
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize(
    ("part", "value", "words"),
    [
        ("model", "ByteLM", "not a component"),
        ("model", None, "not a component"),
        ("model", {}, "no call or no kwargs"),
        ("model", {"call": "overnight.models.byte_lm.ByteLM"}, "no call or no kwargs"),
        ("task", {"call": "torch.nn.Identity", "kwargs": {}}, "no task"),
    ],
)
def test_a_part_that_is_not_what_it_should_be(
    tmp_path: Path, corpus: Path, part: str, value: Any, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", corpus, **{part: value})
    assert words in refused(capsys, "train", run / "run.json", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
