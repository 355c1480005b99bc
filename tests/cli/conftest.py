"""What the command line's tests share."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from oracles.corpus import write_corpus

from overnight.cli import main
from overnight.errors import UserError
from overnight.recipes import find
from overnight.train.launch import Options, train

TINY = ("--batch-size", "4", "--length", "8", "--steps", "2", "--set", "model.hidden_size=8", "--device", "cpu")
Refused = Callable[..., str]


def snapshot(folder: Path) -> dict[str, str | None]:
    """Every path below a folder, and for a file what is in it."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    documents = [bytes(97 + (index * place) % 26 for place in range(99)) + b"\n" for index in range(1, 21)]
    return write_corpus(tmp_path / "corpus", train=[documents], valid=[documents[:5]])


@pytest.fixture
def run(tmp_path: Path, corpus: Path) -> Path:
    """A finished run."""
    made = find("byte-lm")(corpus, batch_size=4, length=8, steps=2, evaluations=0)
    train(made.with_setting("model.hidden_size=8"), tmp_path / "run", Options(device="cpu", quiet=True))
    return tmp_path / "run"


@pytest.fixture
def refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must be refused: exit 2, one sentence and a remedy on stderr, and no file made or changed.

    Returns what was said.
    """
    monkeypatch.chdir(tmp_path)

    def refuse(*argv: object) -> str:
        words = [str(argument) for argument in argv]
        before = snapshot(tmp_path)
        capsys.readouterr()
        assert main(words) == 2
        said = capsys.readouterr().err
        with pytest.raises(UserError) as caught:
            main([*words, "--debug"])
        assert snapshot(tmp_path) == before
        problem, remedy = caught.value.problem, caught.value.remedy
        assert said == f"overnight: {problem} {remedy}\n"
        assert problem.endswith(".")
        assert ". " not in problem
        assert remedy
        return said.removeprefix("overnight: ").strip()

    return refuse
