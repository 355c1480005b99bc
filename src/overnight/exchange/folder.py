"""A folder that is either whole or absent: filled aside, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from overnight.errors import UserError


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; it takes the name ``path`` if the block ends well, and is removed otherwise.

    Raises:
        UserError: if ``path`` exists, or cannot be written.
    """
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} already exists.", "Choose another --out.")
    path = path.absolute()
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    above = [parent for parent in path.parents if not parent.exists()]
    try:
        aside.mkdir(parents=True)
        yield aside
        mask = os.umask(0)
        os.umask(mask)
        for file in aside.rglob("*"):
            if file.is_file():
                file.chmod(0o666 & ~mask)  # safetensors lets only the owner read what it writes
        aside.rename(path)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise UserError(f"{path} cannot be written: {reason}.", "Choose another --out.") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if not path.exists():
            for parent in above:
                with suppress(OSError):
                    parent.rmdir()
