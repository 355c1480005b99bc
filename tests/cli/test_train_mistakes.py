"""Further mistakes of `overnight train`: exit code 2, one sentence that names it, the remedy, and nothing half-written.

``test_refusals.py`` has those of every day; here are rarer settings, corpora that broke, and folders.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from train.launching import arguments

from overnight.cli import main
from overnight.train.host import hold

Fail = Callable[..., str]


@pytest.fixture
def fail(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Fail:
    """Run a command that must fail; returns what it said."""

    def run(*words: object, out: Path | None = tmp_path / "run") -> str:
        capfd.readouterr()
        assert main([str(word) for word in words]) == 2
        printed = capfd.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("overnight: ")
        assert printed.err.count("\n") == 1
        if out is not None:
            assert not out.exists()
        return printed.err.removeprefix("overnight: ").rstrip("\n")

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    out = tmp_path_factory.mktemp("trained") / "run"
    assert main(arguments(corpus, out, steps=2)) == 0
    return out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--preset huge", "There is no preset 'huge'. Choose one of laptop, ten-minutes, 512, 1024"),
        ("--lr -1", "A rate of -1 cannot work. Take --lr above 0, or leave it to the preset."),
        ("--lr 0", "A rate of 0 cannot work."),
        ("--lr nan --optimizer lamb", "A rate of nan cannot work."),
        ("--epochs nan", "epochs=nan cannot work. It must be a number above 0."),
        ("--minutes -1", "minutes=-1.0 cannot work. It must be a number above 0."),
        ("--seed -1", "seed=-1 cannot work. It must be a whole number of at least 0."),
        ("--set optimizer.qqq=1", "optimizer.qqq is not a setting of torch.optim.Adam. Valid names: "),
        ("--set model.hidden_size=wide", "The model (overnight.models.byte_lm.ByteLM) does not accept its settings: "),
        ("--set model.init=best", "'best' is not a known initialisation. Choose one of"),
        ("--set model.embedding.size=4", "model.embedding has no settings of its own. Set it with"),
        ("--set schedule.warmup_samples=lots", "The schedule (overnight.schedule.linear) does not accept its settings"),
        ("--set schedule.horizon=3", "schedule.horizon is not a setting of overnight.schedule.linear. Did you mean"),
        ("--set optimizer=math.pi", "3.14159"),
        ("--set threads=many", "threads='many' cannot work. It must be a whole number of at least 1, or None for"),
        ("--set keep_last=True", "keep_last=True cannot work. It must be a whole number of at least 1."),
        ("--set max_norm={}", "max_norm='{}' cannot work. It must be a number above 0, or None for no clipping."),
    ],
)
def test_settings(corpus: Path, tmp_path: Path, fail: Fail, words: str, expected: str) -> None:
    budget = [] if {"--epochs", "--minutes"}.intersection(words.split()) else ["--steps", 2]
    said = fail("train", "byte-lm", "--data", corpus, "--out", tmp_path / "run", *words.split(), *budget)
    assert said.startswith(expected), said


def test_corpora_that_broke(corpus: Path, tmp_path: Path, fail: Fail) -> None:
    rest = ["--out", tmp_path / "run", "--steps", 2]
    text = tmp_path / "book.txt"
    text.write_text("text")
    assert "is not a prepared corpus" in fail("train", "byte-lm", "--data", text, *rest)
    copy = Path(shutil.copytree(corpus, tmp_path / "copy"))
    shard = copy / "train" / "00001.bin"
    shard.unlink()
    assert fail("train", "byte-lm", "--data", copy, *rest).startswith(f"{shard} is missing")
    (copy / "manifest.json").write_text('{"format": "overnight-corpus/9"}')
    assert "has format 'overnight-corpus/9'; this version reads" in fail("train", "byte-lm", "--data", copy, *rest)


def test_a_folder_that_cannot_be_made(corpus: Path, tmp_path: Path, fail: Fail) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert fail(*arguments(corpus, file / "run"), out=None).startswith(f"{file / 'run'} cannot be made (")


def test_a_run_that_is_refused_is_left_alone(corpus: Path, trained: Path, tmp_path: Path, fail: Fail) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    fail(*arguments(corpus, trained), out=None)
    fail("train", trained, out=None)
    fail("train", trained, "--resume", "--out", tmp_path / "x", out=None)
    fail("train", trained, "--resume", "--set", "optimizer.lr=-1", out=None)
    fail("train", trained, "--resume", "--set", "model.hidden_size=24", out=None)
    said = fail("train", trained, "--resume", "--checkpoint", "9", out=None)
    assert said.endswith("Choose best, last or one of 1, 2.")
    with hold(trained):
        said = fail("train", trained, "--resume", out=None)
    assert said == f"{trained} is being written by another process. Wait for it to end, or stop it."
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_a_run_json_with_an_unknown_field(tmp_path: Path, fail: Fail) -> None:
    path = tmp_path / "run.json"
    path.write_text('{"format": "overnight-run/1", "run": {"sped": 1}}')
    assert "'sped' is not a field of a run. Did you mean" in fail("train", path, "--out", tmp_path / "run")


def test_another_corpus_under_the_same_name(trained: Path, tmp_path: Path, fail: Fail) -> None:
    out = Path(shutil.copytree(trained, tmp_path / "copy"))
    settings = json.loads((out / "run.json").read_text())
    settings["derived"]["corpus_digest"] = "0" * 64
    (out / "run.json").write_text(json.dumps(settings))
    said = fail("train", out, "--resume", "--set", "steps=3", out=None)
    assert said.startswith("The corpus has changed since this run was trained on it (digest 000000000000 then, ")
