"""What to say when the disk takes no more."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from overnight.data.ingest.progress import Progress
from overnight.errors import UserError

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_error(error: OSError, out: Path, progress: Progress) -> UserError:
    """The error to show for one that the system gave while writing, after what was written is deleted.

    Args:
        error: of the system.
        out: the corpus folder.
        progress: tells how much space the whole takes.
    """
    full = error.errno in _NO_SPACE
    if not full:
        return UserError(f"{out} cannot be written: {error}.", "Check the disk and its permissions.")
    parent = next(p for p in (out.absolute(), *out.absolute().parents) if p.exists())
    need, free = progress.bytes_needed(), shutil.disk_usage(parent).free
    return UserError(
        f"The disk of {out} is full: the corpus needs about {need / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free "
        "now that what was written is deleted.",
        "Free some space, or choose an --out on another disk.",
    )
