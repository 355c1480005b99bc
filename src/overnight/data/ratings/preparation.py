"""Rating files → a corpus of ratings on disk, in memory that does not grow with their number."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import overnight
from overnight.data.ingest.continuing import already_there
from overnight.data.ingest.disk import write_error
from overnight.data.ingest.folder import FORMAT, CorpusFolder
from overnight.data.ingest.preparation import log
from overnight.data.ingest.progress import Progress
from overnight.data.ingest.sources import sources_digest
from overnight.data.ratings.corpus import FILES, ID_FILES, KIND, SPLITS
from overnight.data.ratings.loading import build_splits, given_files
from overnight.data.ratings.settings import RatingSettings
from overnight.data.ratings.table import RatingSplits


def prepare_ratings(
    path: str | Path,
    out: str | Path,
    settings: RatingSettings | None = None,
    *,
    valid: str | Path = "",
    test: str | Path = "",
    force: bool = False,
    notify: Callable[[str], None] = log,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Turn rating files into a corpus of ratings: each split by user, on disk.

    Files are read once; then ratings are put aside by user and sorted a part at a time, so memory grows with users and
    items only. On disk it takes at most 80 bytes a rating meanwhile, and 16 in the end (8 without times). A run that is
    interrupted or fails leaves nothing.

    Args:
        path: file or folder (see ``find_files``).
        out: the corpus folder to write.
        settings: how ratings are read and split.
        valid, test: files of the held-out splits.
        force: replace the corpus in ``out``.
        notify: told in a sentence of what was found in ``out``.
        progress: counters to keep up to date.

    Returns:
        The manifest.

    Raises:
        UserError: for files that cannot be used (it names file and row, or user and item), a folder of something else,
            a full disk.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "r.tsv").write_text("ann\\tx\\t5\\nann\\ty\\t0\\nbob\\tx\\t-1\\nbob\\ty\\t3\\n")
    >>> prepare_ratings(folder / "r.tsv", folder / "corpus", RatingSettings(test=0.0))["splits"]["train"]["ratings"]
    4
    """
    settings = settings or RatingSettings()
    files = given_files(path, valid, test, settings.columns)
    sources = [file.source for split in files.values() for file in split]
    folder = CorpusFolder(Path(out), FILES)
    described = {
        **settings.as_json(),
        "given": [name for name in SPLITS if name in files],
        "sources_sha256": sources_digest(sources),
    }
    folder.refuse_foreign()
    finished = folder.finished()
    if finished is not None and not force:
        return already_there(finished, folder, described, None, False, notify)
    progress = progress or Progress()
    progress.bytes_total = sum(source.bytes for source in sources)
    with folder.locked():
        try:
            folder.begin({"settings": described, "ratings": True})
            splits, written = build_splits(files, settings, folder.path, folder.partial, progress.read)
            manifest = {
                "format": FORMAT,
                "kind": KIND,
                "overnight": overnight.__version__,
                "settings": described,
                "part": None,
                "sources": [{"path": source.path, "bytes": source.bytes} for source in sources],
                "timed": splits.train.timestamps is not None,
                "whole_ids": {"users": splits.users.whole, "items": splits.items.whole},
                "users": len(splits.users),
                "items": len(splits.items),
                "splits": {name: {"ratings": len(splits.split(name))} for name in SPLITS},
                "dropped": splits.dropped,
                "files": {**written, **_write_ids(splits, folder.path)},
            }
            folder.finish(manifest)
        except OSError as error:
            folder.discard()
            raise write_error(error, folder.path, progress) from error
        except BaseException:
            folder.discard()
            raise
    return manifest


def _write_ids(splits: RatingSplits, folder: Path) -> dict[str, dict[str, str | int]]:
    about: dict[str, dict[str, str | int]] = {}
    for kind, ids in (("users", splits.users), ("items", splits.items)):
        content = ids.as_text().encode()
        with open(folder / ID_FILES[kind], "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        about[ID_FILES[kind]] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return about
