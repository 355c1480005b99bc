"""A run that is cut short at any moment leaves nothing that looks finished, and the next one goes on with it."""

import io
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
from ingest.checks import all_documents, digest_of, documents_of, write_jsonl

from overnight.data.ingest import PrepareSettings, prepare, run
from overnight.data.ingest.batches import Batch
from overnight.data.ingest.shards import ShardWriter
from overnight.errors import UserError

SETTINGS = PrepareSettings(split=(6, 2, 2), shard_mb=0.002, dedup=True)
TEXTS = [f"text {i % 130} " + "x" * (40 + i % 13) for i in range(300)]

# A process that kills itself at the n-th append to a shard or rename of a record of progress.
KILLED = """
import os, signal, sys
from overnight.data.ingest import folder, preparation, run, shards, prepare, PrepareSettings
preparation.PIECE_BYTES, run._COMMIT_SECONDS = 1000, 0.0
left = int(sys.argv[3])
def dying(function, after):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left < 0 and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*args, **kwargs)
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    return call
shards.ShardWriter.append = dying(shards.ShardWriter.append, True)
folder._write_json = dying(folder._write_json, False)
prepare([sys.argv[1]], sys.argv[2], PrepareSettings(split=(6, 2, 2), shard_mb=0.002, dedup=True),
        workers=int(sys.argv[4]))
print(left)
"""


class Cut(BaseException):
    """Stands for Ctrl-C."""


@pytest.fixture(autouse=True)
def _small(small_pieces: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_COMMIT_SECONDS", 0.0)


def cut_after(appends: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = ShardWriter.append

    def append(self: ShardWriter, batch: Any) -> None:
        nonlocal appends
        appends -= 1
        if appends < 0:
            raise Cut
        real(self, batch)

    monkeypatch.setattr(ShardWriter, "append", append)


@pytest.mark.parametrize("workers", [1, 2])
def test_cut_anywhere_and_gone_on_with(tmp_path: Path, workers: int) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    whole = prepare([source], tmp_path / "whole", SETTINGS)
    expected = documents_of(tmp_path / "whole")
    assert whole["counts"]["duplicates"] == 170
    rounds = 0
    for appends in range(0, 200, 3 if workers == 1 else 16):
        out = tmp_path / f"out{appends}"
        with pytest.MonkeyPatch.context() as patch:
            cut_after(appends, patch)
            try:
                prepare([source], out, SETTINGS, workers=workers)
                break
            except Cut:
                assert not (out / "manifest.json").exists()
        said: list[str] = []
        manifest = prepare([source], out, SETTINGS, notify=said.append)
        assert "going on with an interrupted run" in said[-1]
        assert documents_of(out) == expected
        assert manifest == whole
        rounds += 1
    assert rounds >= (12 if workers == 1 else 2)


def test_killed(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", TEXTS)

    def die_at(step: int, out: Path, workers: int) -> "subprocess.CompletedProcess[str]":
        arguments = [str(source), str(out), str(step), str(workers)]
        return subprocess.run([sys.executable, "-c", KILLED, *arguments], capture_output=True, text=True)

    unharmed = die_at(10_000, tmp_path / "whole", 1)
    steps = 10_000 - int(unharmed.stdout)
    assert steps > 60
    # The last step but one writes the manifest aside; after the last it stands in its place.
    for step in (0, 1, 2, 17, 40, steps - 3, steps - 2, steps - 1):
        for workers in (1, 2) if step == 40 else (1,):
            out = tmp_path / f"out-{step}-{workers}"
            died = die_at(step, out, workers)
            assert died.returncode == -signal.SIGKILL, died.stderr
            assert not (out / "manifest.json").exists()
            prepare([source], out, SETTINGS)
            assert documents_of(out) == documents_of(tmp_path / "whole")


def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **more: Any) -> tuple[Path, Path]:
    source = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    with monkeypatch.context() as patch:
        cut_after(20, patch)
        with pytest.raises(Cut):
            prepare([source], tmp_path / "out", SETTINGS, **more)
    return source, tmp_path / "out"


def test_what_must_not_change_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = interrupted(tmp_path, monkeypatch)
    before = {p: p.stat().st_size for p in out.rglob("*") if p.is_file()}
    with pytest.raises(UserError, match=r"interrupted run with other settings \(framing\)"):
        prepare([source], out, PrepareSettings(split=(6, 2, 2), shard_mb=0.002, dedup=True, framing="none"))
    with pytest.raises(UserError, match=r"other settings \(part\)"):
        prepare([source], out, SETTINGS, part=(1, 2))
    os.utime(source, (1, 1))
    with pytest.raises(UserError, match=r"The sources changed .*a\.jsonl\)\. Add --force"):
        prepare([source], out, SETTINGS)
    assert {p: p.stat().st_size for p in out.rglob("*") if p.is_file()} == before
    prepare([source], out, SETTINGS, force=True)
    assert len(all_documents(out)) == len(set(TEXTS))


def test_shards_that_changed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = interrupted(tmp_path, monkeypatch)
    shard = sorted((out / "train").glob("*.bin"))[-1]
    shard.write_bytes(b"x" + shard.read_bytes()[1:])
    with pytest.raises(UserError, match=r"\.bin changed since the interrupted run wrote it"):
        prepare([source], out, SETTINGS)


def test_shards_not_yet_safe_on_disk_are_read_again(tmp_path: Path) -> None:
    class Never(Executor):
        def submit(self, *_: Any, **__: Any) -> "Future[Any]":
            return Future()

    writer = ShardWriter(tmp_path, "train", 10, Never())
    writer.append(Batch("train", b"x" * 35, [5] * 7))
    state = writer.state()
    assert (len(state["shards"]), state["synced"], state["open"]["bytes"]) == (3, 0, 5)
    assert ShardWriter(tmp_path, "train", 10, Never(), state).bytes == 35
    (tmp_path / "train" / "00001.bin").write_bytes(b"x" * 9)
    with pytest.raises(UserError, match=r"00001\.bin changed"):
        ShardWriter(tmp_path, "train", 10, Never(), state)
    assert ShardWriter(tmp_path, "train", 10, Never(), {**state, "synced": 3}).documents == 7


def test_a_log_of_duplicates_that_lost_something_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = interrupted(tmp_path, monkeypatch)
    log = out / ".overnight-partial" / "seen.log"
    log.write_bytes(bytes(16) + log.read_bytes()[16:])
    with pytest.raises(UserError, match=r"seen\.log changed since the interrupted run wrote it"):
        prepare([source], out, SETTINGS)


def test_standard_input_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_jsonl(tmp_path / "a.jsonl", TEXTS).read_bytes()
    said: list[str] = []
    with monkeypatch.context() as patch:
        cut_after(0, patch)
        with pytest.raises(Cut):
            prepare(["-"], tmp_path / "out", SETTINGS, format="jsonl", stdin=io.BytesIO(data))
    prepare(["-"], tmp_path / "out", SETTINGS, format="jsonl", stdin=io.BytesIO(data), notify=said.append)
    assert "standard input is read anew" in said[-1]
    assert len(all_documents(tmp_path / "out")) == len(set(TEXTS))
    with pytest.raises(UserError, match="already holds a corpus"):
        prepare(["-"], tmp_path / "out", SETTINGS, format="jsonl", stdin=io.BytesIO(data))


def test_one_process_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", TEXTS)

    def second(*_: Any) -> None:
        monkeypatch.undo()
        prepare([source], tmp_path / "out", SETTINGS)

    monkeypatch.setattr(ShardWriter, "append", second)
    with pytest.raises(UserError, match="Another overnight prepare is writing"):
        prepare([source], tmp_path / "out", SETTINGS)


def test_a_worker_that_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from overnight.data.ingest import pool

    source = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    real = pool.Pool._run

    def run_and_kill(self: pool.Pool, number: int, work: Any) -> Any:
        if number == 9:
            for process in self._all:
                process.kill()
        return real(self, number, work)

    with monkeypatch.context() as patch:
        patch.setattr(pool.Pool, "_run", run_and_kill)
        with pytest.raises(UserError, match=r"A worker process ended \(exit status -9\) .* fewer --workers"):
            prepare([source], tmp_path / "out", SETTINGS, workers=2)
    assert not (tmp_path / "out" / "manifest.json").exists()
    prepare([source], tmp_path / "out", SETTINGS, workers=2)
    assert len(all_documents(tmp_path / "out")) == len(set(TEXTS))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """The command waits for its input when the signal comes, workers and all."""
    source = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    slow = (
        "import sys, time\n"
        "from overnight.data.ingest import preparation, run\n"
        "from overnight.data.ingest.shards import ShardWriter\n"
        "preparation.PIECE_BYTES, run._COMMIT_SECONDS = 1000, 0.0\n"
        "real = ShardWriter.append\n"
        "def append(self, batch):\n"
        "    real(self, batch)\n"
        "    print('.', flush=True)\n"
        "    time.sleep(0.1)\n"
        "ShardWriter.append = append\n"
        "from overnight.cli.prepare import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    arguments = [str(source), "--out", str(tmp_path / "out"), "--workers", "2"]
    process = subprocess.Popen(
        [sys.executable, "-c", slow, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(5):
        process.stdout.readline()
    process.send_signal(number)
    started = time.monotonic()
    _, said = process.communicate(timeout=20)
    assert time.monotonic() - started < 5
    assert process.returncode == code, said
    assert said.splitlines()[-1].startswith("Stopped. ")
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "manifest.json").exists()
    notes: list[str] = []
    prepare([source], tmp_path / "out", notify=notes.append)
    assert "going on with an interrupted run" in notes[1]
    assert all_documents(tmp_path / "out").count(TEXTS[0].encode() + b"\n") == 3


def test_files_are_safe_on_disk_before_the_manifest_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[int] = set()
    checked = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        real_fsync(handle)

    def replace(source: Path, target: Path) -> None:
        if target == tmp_path / "out" / "manifest.json":
            files = [source, *(tmp_path / "out").glob("t*/*"), *(tmp_path / "out").glob("valid/*")]
            checked.extend(files)
            assert all(path.stat().st_ino in synced for path in files)
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    prepare([write_jsonl(tmp_path / "a.jsonl", TEXTS)], tmp_path / "out", SETTINGS)
    assert len(checked) > 10


def test_an_orphaned_worker_ends(tmp_path: Path) -> None:
    import psutil

    source = write_jsonl(tmp_path / "a.jsonl", TEXTS)
    kill, wait = "os.kill(os.getpid(), signal.SIGKILL)", "(print('.', flush=True), __import__('time').sleep(60))"
    waiting = KILLED.replace(kill, wait)
    process = subprocess.Popen(
        [sys.executable, "-c", waiting, str(source), str(tmp_path / "out"), "5", "2"], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    workers = psutil.Process(process.pid).children()
    assert len(workers) == 2
    process.kill()
    process.wait()
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    process.stdout.close()
    assert digest_of(_finish(source, tmp_path / "out")) == digest_of(_finish(source, tmp_path / "new"))


def _finish(source: Path, out: Path) -> Path:
    prepare([source], out, SETTINGS)
    return out
