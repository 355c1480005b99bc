"""The command line as a whole: instant help without torch, every command's help, near matches, exit codes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from overnight.cli import COMMANDS, main


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


@pytest.mark.parametrize("words", [["--help"], ["--version"], [], ["train", "--help"]])
def test_help_loads_neither_torch_nor_numpy(words: list[str]) -> None:
    heavy = python(
        f"import sys; from overnight.cli import main; assert main({words!r}) == 0\n"
        "print('HEAVY', sorted({'torch', 'numpy', 'pyarrow', 'safetensors', 'jinja2'} & set(sys.modules)))"
    )
    assert heavy.stdout.splitlines()[-1] == "HEAVY []"


def test_help_comes_in_less_than_half_a_second() -> None:
    """Processor time, so that a busy machine does not matter, of the fastest of three."""
    used = []
    for _ in range(3):
        before = os.times()
        subprocess.run([sys.executable, "-m", "overnight", "--help"], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        used.append(sum(after[2:4]) - sum(before[2:4]))
    assert min(used) < 0.5


def test_usage_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["--help"]) == main(["-h"]) == main(["help"]) == 0
    text = capsys.readouterr().out
    for name, about in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(about)}$", text, re.MULTILINE)


@pytest.mark.parametrize("name", [*COMMANDS, "train byte-lm", "train builtin"])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main([*name.split(), "--help"])
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    assert code == 0
    printed = capsys.readouterr()
    assert "usage: overnight" in printed.out
    assert printed.err == ""


def test_help_of_a_recipe_says_what_its_docstring_says(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "byte-lm", "--help"])
    text = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    assert "Puri et al. 2018" in text
    assert "lanes of one update over all ranks: the dial" in text
    for flag in ("--data", "--preset", "--batch-size", "--minutes", "--set", "--resume", "--tensorboard", "--out"):
        assert flag in text


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("tarin", "There is no command 'tarin'. Did you mean train?"),
        ("lst", "There is no command 'lst'. Did you mean list?"),
        ("zzz", "There is no command 'zzz'. Commands: prepare, train, evaluate, generate, report, doctor, list."),
    ],
)
def test_an_unknown_command(word: str, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word]) == 2
    assert capsys.readouterr().err == f"overnight: {expected}\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    import overnight

    for word in ("--version", "-V", "version"):
        assert main([word]) == 0
        assert capsys.readouterr().out == f"overnight {overnight.__version__}\n"


def test_list_names_recipes_and_presets(capsys: pytest.CaptureFixture[str]) -> None:
    from overnight.recipes import RECIPES
    from overnight.recipes.byte_presets import PRESETS

    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for name in RECIPES:
        assert re.search(rf"^  {name} +\S.*\.$", text, re.MULTILINE)
    for name, preset in PRESETS.items():
        assert re.search(rf"^  {name} +{preset.hidden_size} units, batch +{preset.batch} × ", text, re.MULTILINE)


def test_list_loads_no_torch() -> None:
    heavy = python("import sys; from overnight.cli import main; main(['list']); print('HEAVY', 'torch' in sys.modules)")
    assert heavy.stdout.splitlines()[-1] == "HEAVY False"


def test_interrupted_before_anything_began(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("overnight.cli.catalog.list_recipes", press)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "\novernight: interrupted.\n"


def test_a_reader_that_goes_away() -> None:
    listed = subprocess.Popen(
        [sys.executable, "-m", "overnight", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
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
