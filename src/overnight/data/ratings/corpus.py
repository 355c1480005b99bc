"""A corpus of ratings on disk: its splits mapped, its ids in memory."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from overnight.data.ingest.folder import MANIFEST, read_manifest
from overnight.data.ratings.columns import COLUMNS, column_file, read_matrix
from overnight.data.ratings.ids import Ids
from overnight.data.ratings.table import RatingSplits
from overnight.data.sharded import check_size, verify_file
from overnight.errors import UserError

KIND = "ratings"
SPLITS = ("train", "valid", "test")
ID_FILES = {"users": "users.txt", "items": "items.txt"}
FILES = (*ID_FILES.values(), *(column_file(split, column) for split in SPLITS for column in COLUMNS))
"""Names of the files of a corpus of ratings."""


class RatingCorpus:
    """A corpus folder made by ``overnight prepare --ratings``.

    Args:
        folder: the folder that holds ``manifest.json``.

    Raises:
        UserError: if the folder is no corpus of ratings, or a file is missing or of another size.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        manifest = read_manifest(self.folder)
        if manifest is None or manifest.get("kind") != KIND:
            raise UserError(
                f"{self.folder} is not a corpus of ratings.",
                f"Make one with: overnight prepare --ratings YOUR_RATINGS --out {self.folder}",
            )
        self.manifest: dict[str, Any] = manifest
        try:
            for name, about in manifest["files"].items():
                if name not in FILES:
                    raise KeyError(name)
                check_size(self.folder / name, about["bytes"])
            self.timed: bool = manifest["timed"]
            self.digest = hashlib.sha256(
                "".join(f"{name} {about['sha256']}\n" for name, about in sorted(manifest["files"].items())).encode()
            ).hexdigest()
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{self.folder / MANIFEST} lacks a field or has one of another kind: {error}.", "Prepare it again."
            ) from None

    @cached_property
    def splits(self) -> RatingSplits:
        """Its splits."""
        users, items = (self._ids(kind) for kind in ID_FILES)
        train, valid, test = (read_matrix(self.folder, name, len(items), self.timed) for name in SPLITS)
        return RatingSplits(train, valid, test, users, items, self.manifest["dropped"])

    def verify(self) -> None:
        """Read every file and compare its sha256 with the manifest's."""
        for name, about in self.manifest["files"].items():
            verify_file(self.folder / name, about["sha256"])

    def _ids(self, kind: str) -> Ids:
        lines = (self.folder / ID_FILES[kind]).read_text(encoding="utf-8").split("\n")[:-1]
        return Ids(np.array(lines, dtype=np.int64) if self.manifest["whole_ids"][kind] else lines)
