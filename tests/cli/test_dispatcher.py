"""The command line as a whole: instant help without torch, pipes that close, interruptions."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from overnight.cli import main


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


@pytest.mark.parametrize("words", [["--help"], ["--version"], [], ["train", "--help"]])
def test_help_loads_neither_torch_nor_numpy(words: list[str]) -> None:
    heavy = python(
        f"import sys; from overnight.cli import main; assert main({words!r}) == 0\n"
        "print('HEAVY', sorted({'torch', 'numpy', 'pyarrow', 'safetensors', 'jinja2'} & set(sys.modules)))"
    )
    assert heavy.stdout.splitlines()[-1] == "HEAVY []"


def test_list_and_the_help_of_recipes_load_no_torch() -> None:
    for words in (["list"], ["train", "byte-lm", "--help"], ["train", "builtin", "--help"], ["generate", "--help"]):
        heavy = python(
            f"import sys; from overnight.cli import main\ntry:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
            "print('HEAVY', 'torch' in sys.modules)"
        )
        assert heavy.stdout.splitlines()[-1] == "HEAVY False", words


def test_help_comes_in_less_than_half_a_second() -> None:
    """Processor time, so that a busy machine does not matter, of the fastest of three."""
    used = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "overnight", "--help"], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        used.append(sum(after[2:4]) - sum(before[2:4]))
    assert min(used) < 0.5


@pytest.mark.parametrize("name", ["byte-lm", "builtin"])
def test_help_of_a_recipe_says_what_its_docstring_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["train", name, "--help"])
    assert ended.value.code == 0
    text = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    assert "lanes of one update" in text
    for flag in ("--preset", "--batch-size", "--minutes", "--set", "--resume", "--tensorboard", "--out", "--device"):
        assert flag in text


def test_interrupted_before_anything_began(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("overnight.cli.catalog.main", press)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "\novernight: interrupted.\n"


def test_a_reader_that_goes_away() -> None:
    words = [sys.executable, "-m", "overnight", "list"]
    listed = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert listed.stdout is not None
    listed.stdout.close()
    _, errors = listed.communicate(timeout=60)
    assert b"Traceback" not in errors


def test_a_real_process_exits_with_2_and_one_line(tmp_path: Path) -> None:
    words = ["train", "byte-lm", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run"), "--steps", "1"]
    ended = subprocess.run([sys.executable, "-m", "overnight", *words], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    assert ended.stderr.startswith(f"overnight: {tmp_path / 'none'} is not a prepared corpus")
