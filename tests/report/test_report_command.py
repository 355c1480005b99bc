"""`overnight report` as a command, and what it loads."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from overnight.cli.report import main
from overnight.errors import UserError

RunMaker = Callable[..., Path]


def test_it_writes_the_page_and_prints_its_path(make_run: RunMaker, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(steps=20)
    assert main([str(folder)]) == 0
    assert capsys.readouterr().out == f"report: {folder}/report/index.html\n"
    assert "byte_lm_1024" in (folder / "report" / "index.html").read_text()


def test_several_runs_go_where_out_says(make_run: RunMaker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [str(make_run(name, steps=20)) for name in ("a", "b")]
    assert main([*runs, "--out", str(tmp_path / "both.html")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path}/both.html\n"
    assert "2 runs compared" in (tmp_path / "both.html").read_text()


@pytest.mark.parametrize(("arguments", "said"), [([], "no run to report on"), (["nowhere"], "no run at nowhere")])
def test_mistakes_are_users_mistakes(arguments: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        main(arguments)


def test_an_unknown_option_exits_with_two(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["run", "--colour", "red"])
    assert left.value.code == 2
    assert "--colour" in capsys.readouterr().err


def test_neither_help_nor_a_page_loads_torch(make_run: RunMaker) -> None:
    folder = make_run(steps=20)
    code = (
        "import sys\n"
        "from overnight.cli.report import main\n"
        "light = sorted({'jinja2', 'numpy', 'torch', 'overnight.report'} & sys.modules.keys())\n"
        f"main([{str(folder)!r}])\n"
        "heavy = sorted({'torch', 'numpy', 'matplotlib', 'overnight.train'} & sys.modules.keys())\n"
        "print(light, heavy)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] []"
