"""Features on disk, so that the same texts are read once: by content, model and options, whoever asks.

A cache is a folder; ``KEY/BLOCK.npy`` holds the features of one block of texts, where KEY is a digest of the model and
the options and BLOCK one of the texts. Files are written aside and renamed, so several processes may share a cache, and
a job that was stopped goes on where it was. Delete what is no longer wanted.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from overnight.errors import UserError

_FORMAT = 1


class FeatureCache:
    """Features of blocks of texts, float32 [n, H] each.

    Args:
        folder: the cache; made where it is not there.
        identity: all that decides the features of a text, as JSON takes it.

    Raises:
        UserError: if the folder cannot be made.

    Example:
        >>> cache = FeatureCache(Path("cache"), {"model": "abc", "layer": 0})
        >>> compute = lambda: np.ones((1, 3), np.float32)
        >>> cache.get([b"a text"], compute).shape, cache.get([b"a text"], lambda: None).shape
        ((1, 3), (1, 3))
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        key = hashlib.sha256(json.dumps({"format": _FORMAT, **identity}, sort_keys=True).encode()).hexdigest()
        self.folder = folder / key[:32]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(folder, error) from None

    def get(self, framed: list[bytes], compute: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
        """The features of a block, from the disk or else from ``compute``, whose result is kept.

        Raises:
            UserError: if they cannot be written.
        """
        path = self.folder / f"{_digest(framed)}.npy"
        with suppress(OSError, ValueError, EOFError):  # a file that is not there, or not whole: made anew
            found: NDArray[np.float32] = np.load(path, mmap_mode="r")
            if found.ndim == 2 and len(found) == len(framed) and found.dtype == np.float32:
                return found
        values = compute()
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with aside.open("wb") as file:
                np.save(file, values)
            aside.replace(path)
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        finally:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
        return values


def _digest(framed: list[bytes]) -> str:
    found = hashlib.sha256()
    for text in framed:
        found.update(len(text).to_bytes(8, "little"))
        found.update(text)
    return found.hexdigest()


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"The cache {folder} cannot be written ({error.strerror or error}).",
        "Free some space, choose another folder, or leave the cache out.",
    )
