"""Under the real torchrun: one voice for an error, a signal to one worker, and a restart that goes on by itself."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from train.launching import arguments, lines, make_corpus, overnight, same_end, start

STEPS = 60
SETTINGS = {"steps": STEPS, "checkpoint_steps": 10, "evaluations": 1, "keep_last": 9}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpora") / "corpus")


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on two ranks that was never interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    overnight(arguments(corpus, folder / "run", **SETTINGS), folder / "logs", 2)
    return folder / "run"


class Torchrun:
    """``torchrun --standalone --nproc-per-node 2 … overnight ARGV``, on one thread a worker."""

    def __init__(self, log: Path, argv: list[str], *options: str) -> None:
        self.log = log
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *options]
        words += ["-m", "overnight", *argv]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *words], stdout=file, stderr=file, env=os.environ | {"OMP_NUM_THREADS": "1"}
            )

    def until(self, found: Callable[[], bool], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not found():
            if self.process.poll() is not None or time.monotonic() > end:
                self.process.kill()
                raise AssertionError(self.output())
            time.sleep(0.002)

    def worker(self, rank: int) -> psutil.Process:
        for child in psutil.Process(self.process.pid).children():
            if child.environ().get("RANK") == str(rank):
                return child
        raise AssertionError(f"no rank {rank}")

    def wait(self, seconds: float = 120) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGTERM)
            raise AssertionError(f"went on for {seconds} s:\n{self.output()}") from None

    def output(self) -> str:
        return self.log.read_text(errors="replace")


def test_a_worker_that_is_killed_is_started_again_and_goes_on(corpus: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    running = Torchrun(tmp_path / "log", arguments(corpus, out, **SETTINGS), "--max-restarts", "1")
    running.until(lambda: len(lines(out / "metrics.jsonl")) >= 15)
    running.worker(1).kill()
    assert running.wait() == 0, running.output()
    assert "resumed at step " in running.output()
    same_end(out, whole)


def test_a_signal_to_one_worker_stops_all_and_the_run_goes_on(corpus: Path, whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    running = Torchrun(tmp_path / "log", arguments(corpus, out, **SETTINGS))
    running.until(lambda: len(lines(out / "metrics.jsonl")) >= 5)
    running.worker(1).send_signal(signal.SIGTERM)
    assert running.wait() != 0
    assert running.output().count("Stopped by SIGTERM at step ") == 1
    assert running.output().count(f"overnight train {out} --resume") == 1
    assert "RuntimeError" not in running.output()
    overnight(["train", str(out), "--resume"], tmp_path / "logs", 2)
    same_end(out, whole)


def test_torchrun_that_is_stopped_saves(corpus: Path, whole: Path, tmp_path: Path) -> None:
    """As by a scheduler, or by Ctrl-C in its terminal: torchrun passes the signal on."""
    out = tmp_path / "run"
    running = Torchrun(tmp_path / "log", arguments(corpus, out, **SETTINGS))
    running.until(lambda: len(lines(out / "metrics.jsonl")) >= 5)
    running.process.send_signal(signal.SIGINT)
    for rank in (0, 1):  # a terminal sends it to every process; torchrun then passes it on once more
        running.worker(rank).send_signal(signal.SIGINT)
    assert running.wait() != 0
    assert running.output().count("Stopped by SIGINT at step ") == 1
    overnight(["train", str(out), "--resume"], tmp_path / "logs", 2)
    same_end(out, whole)


def test_an_error_is_said_once(corpus: Path, tmp_path: Path) -> None:
    running = Torchrun(tmp_path / "log", arguments(corpus, tmp_path / "run", model__init="best"))
    assert running.wait() != 0
    assert running.output().count("overnight: 'best' is not a known initialisation. Choose one of") == 1
    assert "UserError" not in running.output()
    assert not (tmp_path / "run").exists()


def test_an_error_before_the_ranks_have_met_is_said_once_a_host(corpus: Path, tmp_path: Path) -> None:
    argv = arguments(tmp_path / "none", tmp_path / "run")
    running = start(argv, tmp_path / "logs", 2, env={"TORCHELASTIC_RUN_ID": "test"})
    assert running.wait() == [2, 2]
    assert running.output().count("is not a prepared corpus") == 1


def test_out_must_be_named(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["train", "byte-lm", "--data", str(corpus), "--steps", "1"]
    running = start(argv, tmp_path / "logs", 2, env={"TORCHELASTIC_RUN_ID": "test"})
    assert running.wait() == [2, 2]
    said = "overnight: Under torchrun every rank must write to one folder. Give it with --out."
    assert running.output().count(said) == 1


def test_a_full_disk_on_rank_0_stops_all(corpus: Path, tmp_path: Path) -> None:
    """The other rank does not wait for it, nor tell of a lost connection."""
    out = tmp_path / "run"
    out.mkdir()
    (out / ".metrics.jsonl").write_text("")  # what a killed run left is no other run
    running = start(arguments(corpus, out, task="train.slow.FullDiskTask"), tmp_path / "logs", 2)
    assert running.wait() == [2, 2]
    assert running.output().count("cannot be written (No space left on device)") == 1
    assert "Traceback" not in running.output()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_mistake_that_only_one_rank_has(corpus: Path, tmp_path: Path, rank: int) -> None:
    running = start(
        arguments(corpus, tmp_path / "run", task="train.slow.PickyTask", task__rank=rank), tmp_path / "logs", 2
    )
    assert running.wait() == [2, 2]
    assert running.output().count("overnight: Rank ") == 1
    assert f"overnight: Rank {rank} does not like it. Ask another." in running.logs[rank].read_text()
    assert not (tmp_path / "run").exists()
