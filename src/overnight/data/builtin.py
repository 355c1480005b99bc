"""The corpus that every machine has: the source of Python's own standard library."""

from __future__ import annotations

import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path

from overnight.data.ingest import PrepareSettings, prepare
from overnight.errors import UserError

# Folders that distributions leave out or put in packages of their own, that later versions dropped, or that hold
# tables and not code (encodings, pydoc_data): without them, one version of Python has one corpus almost anywhere.
LEFT_OUT = frozenset(
    {
        "__phello__",
        "__pycache__",
        "dist-packages",
        "distutils",
        "encodings",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pydoc_data",
        "site-packages",
        "test",
        "tests",
        "tkinter",
        "turtledemo",
    }
)
SETTINGS = PrepareSettings(document="file", framing="newline", split=(90, 5, 5))


def builtin_sources(stdlib: Path | None = None) -> list[Path]:
    """The ``.py`` files of the standard library, sorted by their path within it.

    Args:
        stdlib: another folder than that of the running Python.

    Raises:
        UserError: this Python comes without the source of its library.
    """
    root = stdlib or Path(sysconfig.get_path("stdlib"))
    found = []
    if root.is_dir():
        for path in root.rglob("*.py"):
            relative = path.relative_to(root)
            generated = relative.name.startswith("_sysconfigdata") or relative.parts[0].startswith("config-")
            if not generated and LEFT_OUT.isdisjoint(relative.parts[:-1]) and path.is_file():
                found.append((relative.as_posix(), path))
    if not found:
        raise UserError(
            f"This Python has no source files of its standard library in {root}.",
            "Give text of your own: overnight prepare FILE... --out DIR, then train with --data DIR.",
        )
    return [path for _, path in sorted(found)]


def builtin_corpus(cache_dir: str | Path) -> Path:
    """The folder of the embedded corpus, one document a file, prepared at the first call.

    Documents are split 90 : 5 : 5 by hash into train, valid and test. With CPython 3.11 it is 8 MB.

    Args:
        cache_dir: where corpora are kept; each version of Python has its own folder in it.

    Raises:
        UserError: this Python comes without the source of its library, or the folder cannot be written.
    """
    sources = builtin_sources()
    cache = Path(cache_dir)
    folder = cache / "python-{}.{}.{}-stdlib".format(*sys.version_info[:3])
    if not (folder / "manifest.json").is_file():
        try:
            cache.mkdir(parents=True, exist_ok=True)
            # Aside and renamed: of two processes that come here at once, the later one finds the other's corpus.
            aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=cache))
        except OSError as error:
            raise UserError(f"{cache} cannot be written: {error.strerror}.", "Choose another folder.") from None
        try:
            prepare(sources, aside, SETTINGS, format="txt")
            try:
                aside.chmod(0o755)
                aside.replace(folder)
            except OSError:
                if not (folder / "manifest.json").is_file():
                    raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder
