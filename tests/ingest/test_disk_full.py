"""A disk that fills up while the corpus is written."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ingest.checks import write_jsonl

from overnight.data.ingest import PrepareSettings, join_parts, prepare, shards
from overnight.errors import UserError

TEXTS = [f"{i} " + "x" * 1000 for i in range(3000)]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("dedup", [False, True])
def test_small_file_system(tmp_path: Path, tiny_disk: Path, workers: int, dedup: bool) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    with pytest.raises(UserError) as caught:
        prepare([source], tiny_disk / "out", PrepareSettings(dedup=dedup), workers=workers)
    assert "is full: the corpus needs about 3." in str(caught.value)
    assert "MB, 1.0 MB are free" in str(caught.value)
    assert list(tiny_disk.iterdir()) == []


class _Full:
    def __init__(self, file: Any, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: bytes) -> int:
        self._room -= len(data)
        if self._room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self._file.write(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("room", [0, 100, 100_000, 2_900_000])
def test_no_room_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    real = shards.HashedFile.__init__

    def init(self: Any, *args: Any) -> None:
        real(self, *args)
        self._file = _Full(self._file, room)

    monkeypatch.setattr(shards.HashedFile, "__init__", init)
    with pytest.raises(UserError, match=r"The disk of .*out is full: the corpus needs about \d") as caught:
        prepare([source], tmp_path / "out", PrepareSettings(split=(1, 0, 0)))
    assert "Free some space" in caught.value.remedy
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["plan.json", "manifest.json"])
def test_no_room_for_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    real = os.replace

    def replace(a: Any, b: Any) -> None:
        if Path(b).name == name:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        real(a, b)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(UserError, match="is full"):
        prepare([write_jsonl(tmp_path / "a.jsonl", TEXTS)], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_no_room_for_the_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from overnight.data.ingest.dedup import DigestTable

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(DigestTable, "_put", full)
    with pytest.raises(UserError, match="is full"):
        prepare([write_jsonl(tmp_path / "a.jsonl", TEXTS)], tmp_path / "out", PrepareSettings(dedup=True))
    assert not (tmp_path / "out").exists()


def test_no_room_to_join(tmp_path: Path, tiny_disk: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    for number in (1, 2):
        prepare([source], tmp_path / str(number), part=(number, 2))
    with pytest.raises(UserError, match=r"is full: the corpus needs about 3\."):
        join_parts([tmp_path / "1", tmp_path / "2"], tiny_disk / "out")
    assert list(tiny_disk.iterdir()) == []
