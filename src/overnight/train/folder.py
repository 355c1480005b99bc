"""Files that are either whole or absent: written aside, synced, renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from overnight.errors import UserError


def write_json(path: Path, data: Any) -> None:
    """Replace a JSON file in one go."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
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


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder in one go.

    ``fill`` writes its files into a folder aside; then ``digest.json`` is added, all is synced and renamed.

    Raises:
        UserError: if the disk is full or the place cannot be written; what was written aside is removed.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        fill(aside)
        digests = {file.name: sha256(file) for file in sorted(aside.iterdir())}
        (aside / "digest.json").write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
        for file in aside.iterdir():
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        _sync_folder(aside)
        if path.exists():
            shutil.rmtree(path)
        aside.rename(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}).", "Free some space or choose another --out."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def verify_folder(path: Path) -> str | None:
    """What is wrong with a folder that ``write_folder`` made, in words; None if nothing is."""
    try:
        digests = json.loads((path / "digest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "digest.json is missing or unreadable"
    for name, expected in digests.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if sha256(file) != expected:
            return f"{name} does not match its digest"
    return None


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync_folder(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
