"""Opening a run folder: refuse what is not ours, resume what is."""

import json
import platform
import shutil
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import overnight
from overnight.errors import UserError
from overnight.train.checkpoint import list_checkpoints
from overnight.train.folder import write_json
from overnight.train.record import truncate_records
from overnight.train.run import FORMAT, Run


def open_run(folder: Path, resume: bool) -> bool:
    """Whether there is a checkpoint to go on from.

    Raises:
        UserError: if the folder holds a run and we do not resume, holds other things, or cannot be made.
    """
    if resume and not (folder / "run.json").is_file():
        raise UserError(f"{folder} holds no run to resume.", "Start one with: overnight train RECIPE --out FOLDER.")
    if resume:
        return bool(list_checkpoints(folder / "checkpoints"))
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file.", "Choose another --out.")
    if (folder / "run.json").exists():
        raise UserError(
            f"{folder} already holds a run.",
            f"Go on with it (overnight train {folder} --resume) or choose another --out.",
        )
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no run.", "Choose another --out.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}).", "Choose another --out.") from None
    return False


def start_run(folder: Path, run: Run, derived: dict[str, Any], command: Sequence[str], step: int | None) -> None:
    """Write run.json, and take away what a killed run left half-written or a resumed one writes again.

    Args:
        folder: the run folder.
        run, derived, command: for run.json.
        step: where a resumed run goes on; None for a new one.
    """
    for leftover in [*folder.glob(".*.json.*"), *(folder / "checkpoints").glob(".*")]:
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)
    truncate_records(folder, step or 0)
    path = folder / "run.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    record = {
        "format": FORMAT,
        "overnight": overnight.__version__,
        "recipe": run.recipe,
        "command": before.get("command") or list(command),
        "started": before.get("started") or datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "resumed_at": [*before.get("resumed_at", []), *([step] if step is not None else [])],
        "run": run.to_json(),
        "derived": derived,
        "environment": {
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "platform": platform.platform(),
            "threads": derived["threads"],
            "device": derived["device"],
        },
    }
    write_json(path, record)
