"""A full disk: one sentence, the checkpoints before it intact, and the run goes on when there is room again."""

import errno
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from train.launching import arguments, lines, same_end, tiny

from overnight.cli import main
from overnight.errors import UserError
from overnight.train import checkpoint, folder, record
from overnight.train.checkpoint import list_checkpoints, load_checkpoint
from overnight.train.launch import Options, train

QUIET = Options(quiet=True)
SETTINGS = {"checkpoint_steps": 3, "keep_last": 9, "evaluations": 1}


@pytest.fixture(scope="module")
def whole(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    train(tiny(corpus, **SETTINGS), out, QUIET)
    return out


def full(*_: Any, **__: Any) -> Any:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def intact(out: Path, steps: list[int]) -> None:
    found = list_checkpoints(out / "checkpoints")
    assert [int(path.name) for path in found] == steps
    for path in found:
        load_checkpoint(path)
    left = [path.name for path in (out / "checkpoints").iterdir() if not path.name.isdigit()]
    assert left in ([], ["best.json"])


@pytest.mark.parametrize("what", ["os.fsync", "save_file", "rename", "digest"])
def test_while_writing_a_checkpoint(
    corpus: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    out = tmp_path / "run"
    save = checkpoint.save_checkpoint

    def second(*args: Any, **kwargs: Any) -> Path:
        with monkeypatch.context() as patch:
            if args[1].state["step"] == 6:
                if what == "os.fsync":
                    patch.setattr(os, "fsync", full)
                elif what == "save_file":
                    patch.setattr(checkpoint, "save_file", full)
                elif what == "rename":
                    patch.setattr(Path, "rename", full)
                else:
                    patch.setattr(folder, "sha256", full)
            return save(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr("overnight.train.saving.save_checkpoint", second)
        with pytest.raises(
            UserError, match=r"00000006 cannot be written \(No space left on device\)\. Free some space"
        ):
            train(tiny(corpus, **SETTINGS), out, QUIET)
    intact(out, [3])
    assert (out / "summary.json").exists()
    train(tiny(corpus, **SETTINGS), out, Options(quiet=True, resume=True))
    same_end(out, whole)


class FullFile(io.FileIO):
    """Takes so many bytes in all, as a disk that fills up."""

    room = 0

    def write(self, data: Any) -> int:
        taken = data[: FullFile.room]
        if not taken:
            full()
        FullFile.room -= len(taken)
        return super().write(taken)


def test_while_writing_metrics(corpus: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that went in by half is taken back."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(record, "FileIO", FullFile)
        FullFile.room = 1000
        with pytest.raises(
            UserError, match=r"metrics\.jsonl cannot be written \(No space left on device\)\. Free some"
        ):
            train(tiny(corpus, **SETTINGS), out, QUIET)
    text = (out / "metrics.jsonl").read_text()
    assert text.endswith("}\n")
    steps = [line["step"] for line in lines(out / "metrics.jsonl")]
    assert steps in ([1, 2, 3], [1, 2, 3, 4])  # a line is 230 to 260 bytes, as its numbers have digits
    intact(out, [3])
    train(tiny(corpus, **SETTINGS), out, Options(quiet=True, resume=True))
    same_end(out, whole)


def test_before_anything_is_there(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"run\.json cannot be written \(No space left on device\)"):
        train(tiny(corpus), tmp_path / "run", QUIET)
    assert list((tmp_path / "run").iterdir()) == []
    monkeypatch.undo()
    train(tiny(corpus, steps=1), tmp_path / "run", QUIET)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 450 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = shutil.which("mount") and os.name == "posix"
    if (
        not mounted
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=450k", "tmpfs", str(place)], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("mounting a small tmpfs needs root")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("filled", ["by the run", "before it"])
def test_a_disk_that_is_really_full(
    corpus: Path, whole: Path, small_disk: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], filled: str
) -> None:
    out = small_disk / "run"
    if filled == "before it":
        (small_disk / "ballast").write_bytes(bytes(440_000))
    assert main(arguments(corpus, out, **SETTINGS)) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("overnight: ")]
    assert len(said) == 1
    assert "cannot be written (No space left on device" in said[0]
    assert "Free some space" in said[0]
    if filled == "before it":
        return
    found = [int(path.name) for path in list_checkpoints(out / "checkpoints")]
    assert found
    intact(out, found)
    roomy = Path(shutil.copytree(out, tmp_path / "roomy"))
    train(tiny(corpus, **SETTINGS), roomy, Options(quiet=True, resume=True))
    same_end(roomy, whole)
