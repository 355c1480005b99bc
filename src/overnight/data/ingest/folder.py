"""The folder that is being written: what stands in it, whose it is, how far an interrupted run came."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from overnight.data.ingest.settings import SPLITS
from overnight.errors import UserError

FORMAT = "overnight-corpus/1"
MANIFEST = "manifest.json"
PARTIAL = ".overnight-partial"
_PLAN = "plan.json"
_PROGRESS = "progress.json"
_SHARD_NAME = re.compile(r"\d{5,}\.(bin|idx)")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished corpus, or None where the folder holds none."""
    manifest = _read_json(folder / MANIFEST)
    return manifest if isinstance(manifest, dict) and manifest.get("format") == FORMAT else None


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a loss of power, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class CorpusFolder:
    """A corpus under way at ``path``.

    Args:
        path: the folder; it need not exist.
        extra: names of files beside the shards that belong to a corpus of this kind.
    """

    def __init__(self, path: Path, extra: Sequence[str] = ()) -> None:
        self.path, self.extra = path, extra
        self.partial = path / PARTIAL
        self._created = False

    def finished(self) -> dict[str, Any] | None:
        """The manifest where a corpus stands here."""
        return read_manifest(self.path)

    def plan(self) -> dict[str, Any] | None:
        """What an interrupted run set out to do, or None where there was none."""
        plan = _read_json(self.partial / _PLAN)
        return plan if isinstance(plan, dict) else None

    def progress(self) -> dict[str, Any] | None:
        """How far an interrupted run came, or None where it did not finish its first piece."""
        progress = _read_json(self.partial / _PROGRESS)
        return progress if isinstance(progress, dict) else None

    def refuse_foreign(self) -> None:
        """Check that nothing here belongs to anyone else.

        Raises:
            UserError: a file, or a folder with something in it that is not a corpus.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file, not a folder.", "Choose another --out.")
        if not self.path.exists():
            return
        foreign = next(self._foreign(), None)
        if foreign is not None:
            kind = "another run" if (self.path / "run.json").exists() else "something else"
            raise UserError(
                f"{self.path} holds {kind} ({foreign.relative_to(self.path)}).",
                "Choose an empty or a new folder for --out; prepare never deletes what it did not write.",
            )
        ours = self.finished() is not None or self.partial.is_dir()
        if not ours and any(self.path.iterdir()):
            raise UserError(
                f"{self.path} holds files of a corpus but no manifest.json of one.", "Choose another folder for --out."
            )

    def _foreign(self) -> Iterator[Path]:
        for entry in sorted(self.path.iterdir()):
            if entry.name == PARTIAL and entry.is_dir():
                continue
            if entry.name == MANIFEST and self.finished() is not None:
                continue
            if entry.name in self.extra and entry.is_file():
                continue
            if entry.name in SPLITS and entry.is_dir():
                yield from (p for p in sorted(entry.iterdir()) if not _SHARD_NAME.fullmatch(p.name) or p.is_dir())
                continue
            yield entry

    def clear(self) -> None:
        """Delete the corpus or the interrupted run, the manifest first; the folder itself stays."""
        for name in (MANIFEST, *self.extra):
            (self.path / name).unlink(missing_ok=True)
        self.drop_later_shards({})
        for split in SPLITS:
            with suppress(OSError):
                (self.path / split).rmdir()
        shutil.rmtree(self.partial, ignore_errors=True)

    def discard(self) -> None:
        """Delete all that was written, and the folder itself if it was made for it."""
        self.clear()
        if self._created:
            with suppress(OSError):
                self.path.rmdir()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from writing here; the lock goes with the process, however it ends.

        Raises:
            UserError: another process holds it, or the folder cannot be made.
        """
        try:
            self._created = not self.path.exists()
            self.partial.mkdir(parents=True, exist_ok=True)
            lock = open(self.partial / "lock", "ab")  # noqa: SIM115
        except OSError as error:
            raise UserError(
                f"{self.path} cannot be written: {error.strerror}.", "Choose another folder for --out."
            ) from None
        try:
            if not _try_lock(lock.fileno()):
                raise UserError(
                    f"Another overnight prepare is writing {self.path}.", "Wait for it, or choose another --out."
                )
            yield
        finally:
            lock.close()

    def begin(self, plan: dict[str, Any]) -> None:
        """Start anew: forget what an interrupted run left, and note what is going to be done."""
        for name in (MANIFEST, *self.extra):
            (self.path / name).unlink(missing_ok=True)
        self.drop_later_shards({})
        for entry in self.partial.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry)
            elif entry.name != "lock":
                entry.unlink()
        _write_json(self.partial / _PLAN, plan)

    def note(self, progress: dict[str, Any]) -> None:
        """Record how far the run has come.

        Not synced: a record that a loss of power spoils is found out by the digests in it.
        """
        _write_json(self.partial / _PROGRESS, progress)

    def drop_later_shards(self, shards: dict[str, int]) -> None:
        """Delete shard files from the given index on, by split: those of work that has to be done again."""
        for split in SPLITS:
            for file in (self.path / split).glob("*"):
                if _SHARD_NAME.fullmatch(file.name) and int(file.stem) >= shards.get(split, 0):
                    file.unlink()

    def finish(self, manifest: dict[str, Any]) -> None:
        """Put the manifest in place, which makes the folder a corpus, and clear the workings away."""
        for split in SPLITS:
            if (self.path / split).is_dir():
                sync_folder(self.path / split)
        _write_json(self.partial / MANIFEST, manifest, indent=1, sync=True)
        os.replace(self.partial / MANIFEST, self.path / MANIFEST)
        sync_folder(self.path)
        shutil.rmtree(self.partial, ignore_errors=True)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def _write_json(path: Path, value: Any, indent: int | None = None, sync: bool = False) -> None:
    aside = path.with_name(path.name + ".new")
    with open(aside, "wb") as file:
        # ASCII: names of files need not be valid Unicode.
        file.write(json.dumps(value, indent=indent).encode("ascii"))
        if sync:
            file.flush()
            os.fsync(file.fileno())
    os.replace(aside, path)


def _try_lock(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
