"""What a run ends with: an exit code, a sample that a terminal survives, and the truth about the report."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from overnight.cli.outcome import print_outcome
from overnight.errors import UserError

FINISHED: dict[str, Any] = {"state": "finished", "reason": "", "signal": None, "final": None, "baselines": []}


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_the_exit_code_is_the_signals(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, code: int) -> None:
    summary = FINISHED | {"state": "stopped", "reason": "Stopped; saved.", "signal": signal.Signals[name].name}
    assert print_outcome(tmp_path, summary) == code
    assert f"overnight train {tmp_path} --resume" in capsys.readouterr().out


@pytest.mark.parametrize("terminal", [True, False])
def test_a_sample_loses_its_control_characters_on_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    monkeypatch.setattr("rich.console.Console.is_terminal", terminal)
    (tmp_path / "samples.jsonl").write_text(json.dumps({"text": "a\x9b2Jb\tc"}) + "\n")
    assert print_outcome(tmp_path, FINISHED) == 0
    shown = capsys.readouterr().out
    assert ("\x9b" in shown) is not terminal
    assert ("�2Jb" in shown) is terminal


def test_a_report_that_fails_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_runs: list[Path]) -> Path:
        raise UserError("[the] disk is full.", "Free some space.")

    monkeypatch.setattr("overnight.report.write_report", fail)
    assert print_outcome(tmp_path, FINISHED) == 0
    said = capsys.readouterr().out
    assert "report      [the] disk is full. Free some space." in said
    assert "pip install" not in said
