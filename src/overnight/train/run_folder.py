"""Opening a run folder: refuse what is not ours, resume what is."""

import json
import os
import platform
import re
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import overnight
from overnight.errors import UserError
from overnight.train.checkpoint import drop_after, list_checkpoints
from overnight.train.folder import clean_up, write_json
from overnight.train.host import hold
from overnight.train.record import truncate_records
from overnight.train.run import FORMAT, Run
from overnight.train.state import State

LEFTOVER = re.compile(r"\.(run|summary)\.json\.\d+|\.(metrics|eval|samples|decisions)\.jsonl")
"""Names of what a process that was killed while it wrote leaves in a run folder."""


def open_run(folder: Path, resume: bool, stack: ExitStack) -> bool:
    """Whether there is a checkpoint to go on from; a run that is resumed is held until ``stack`` closes.

    Raises:
        UserError: if the folder holds a run and we do not resume, or one that another process writes, or other things.
    """
    if resume and not (folder / "run.json").is_file():
        raise UserError(f"{folder} holds no run to resume.", "Start one with: overnight train RECIPE --out FOLDER.")
    if resume:
        stack.enter_context(hold(folder))
        clean_up(folder / "checkpoints")
        return bool(list_checkpoints(folder / "checkpoints"))
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file.", "Choose another --out.")
    if (folder / "run.json").exists():
        raise UserError(
            f"{folder} already holds a run.",
            f"Go on with it (overnight train {folder} --resume) or choose another --out.",
        )
    if folder.exists() and not all(LEFTOVER.fullmatch(path.name) for path in folder.iterdir()):
        raise UserError(f"{folder} is not empty and holds no run.", "Choose another --out.")
    return False


def start_run(
    folder: Path,
    run: Run,
    derived: dict[str, Any],
    command: Sequence[str],
    resume: bool,
    state: State | None,
    stack: ExitStack,
) -> None:
    """Write run.json, and take away what a killed run left half-written or a resumed one writes again.

    Args:
        folder: the run folder; a new one is made, and held until ``stack`` closes.
        run, derived, command: for run.json.
        resume: whether the folder is a run's already, which ``open_run`` then holds.
        state: where a resumed run goes on; None for one that starts, or that had no checkpoint yet.
        stack: the caller's.

    Raises:
        UserError: if the folder cannot be made or written, if another process has started a run in it since
            ``open_run`` looked, or if the corpus is no longer the one that the run was trained on.
    """
    path = folder / "run.json"
    before: dict[str, Any] = {}
    if resume:
        before = json.loads(path.read_text(encoding="utf-8"))
        _same_corpus(before, derived, state)
    else:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder} cannot be made ({error.strerror}).", "Choose another --out.") from None
        stack.enter_context(hold(folder))
        open_run(folder, False, stack)
    for leftover in list(folder.iterdir()):
        if LEFTOVER.fullmatch(leftover.name):
            leftover.unlink(missing_ok=True)
    (folder / "summary.json").unlink(missing_ok=True)
    step = state.step if state is not None else 0
    evaluation = state.last_evaluation if state is not None else None
    truncate_records(folder, step, evaluation["step"] if evaluation else 0)
    drop_after(folder / "checkpoints", step, state.best if state is not None else None)
    record = {
        "format": FORMAT,
        "overnight": overnight.__version__,
        "recipe": run.recipe,
        "command": before.get("command") or list(command),
        "started": before.get("started") or datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "launch": os.environ.get("TORCHELASTIC_RUN_ID"),
        "resumed_at": [*before.get("resumed_at", []), *([step] if state is not None else [])],
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


def _same_corpus(before: dict[str, Any], derived: dict[str, Any], state: State | None) -> None:
    """The position in the data and the state of the lanes mean nothing on other bytes."""
    old, new = before.get("derived", {}).get("corpus_digest"), derived["corpus_digest"]
    if state is not None and old is not None and old != new:
        raise UserError(
            f"The corpus has changed since this run was trained on it (digest {old[:12]} then, {str(new)[:12]} now).",
            "Put the old corpus back, or start a new run.",
        )
