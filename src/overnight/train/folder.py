"""Files that are either whole or absent: written aside, synced, renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from overnight.errors import UserError


def write_json(path: Path, data: Any) -> None:
    """Replace a JSON file in one go.

    Raises:
        UserError: if it cannot be written; the file is as it was.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with _told(path):
        try:
            with aside.open("w", encoding="utf-8") as file:
                json.dump(data, file, indent=1)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)
        _sync_folder(path.parent)


def begin_folder(path: Path) -> Path:
    """The folder aside, where ``write_folder`` fills it; empty. For those who fill it in more than one process.

    Raises:
        UserError: if the place cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with _told(path):
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(_replaced(path), ignore_errors=True)
        aside.mkdir(parents=True)
    return aside


def write_folder(path: Path, fill: Callable[[Path], None], aside: Path | None = None) -> None:
    """Make a folder in one go; one that is there is replaced.

    ``fill`` writes its files into a folder aside; then ``digest.json`` is added, all is synced and renamed.

    Args:
        path: the folder.
        fill: writes.
        aside: what ``begin_folder`` gave, with what is there already; None begins.

    Raises:
        UserError: if the disk is full or the place cannot be written; what was written aside is removed.
    """
    aside = begin_folder(path) if aside is None else aside
    replaced = _replaced(path)
    with _told(path):
        try:
            fill(aside)
            files = sorted(file for file in aside.rglob("*") if file.is_file())
            digests = {file.relative_to(aside).as_posix(): sha256(file) for file in files}
            digest = aside / "digest.json"
            digest.write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
            for file in (*files, digest):
                file.chmod(digest.stat().st_mode)  # safetensors lets only the owner read what it writes
                with file.open("r+b") as opened:  # Windows syncs only what may be written
                    os.fsync(opened.fileno())
            for folder in {file.parent for file in (*files, digest)}:
                _sync_folder(folder)
            if path.exists():
                path.rename(replaced)
            aside.rename(path)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Take a folder's name away first, so that half of it is never taken for the whole."""
    doomed = path.with_name(f".{path.name}.removed")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def clean_up(parent: Path) -> None:
    """Put right what a process that was killed in one of these functions left in a folder."""
    for leftover in list(parent.glob(".*")):
        if not leftover.is_dir():
            leftover.unlink(missing_ok=True)
            continue
        name, _, kind = leftover.name[1:].rpartition(".")
        if kind == "replaced" and not (parent / name).exists():
            leftover.rename(parent / name)  # killed between the two renames
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def verify_folder(path: Path) -> str | None:
    """What is wrong with a folder that ``write_folder`` made, in words; None if nothing is."""
    try:
        digests = json.loads((path / "digest.json").read_text(encoding="utf-8"))
        for name, expected in digests.items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            if sha256(file) != expected:
                return f"{name} does not match its digest"
    except (OSError, ValueError, AttributeError):
        return "digest.json is missing or unreadable"
    return None


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _replaced(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """An error of the file system as one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        # safetensors has no OSError: its message reads "… I/O error: No space left on device (os error 28)"
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error).rpartition(": ")[2]
        raise UserError(
            f"{path} cannot be written ({reason}).",
            "Free some space there, or make it writable; a run goes on with --resume.",
        ) from error


def _sync_folder(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
