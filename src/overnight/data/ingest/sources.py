"""Which files are read, in which order, as which format."""

from __future__ import annotations

import glob
import hashlib
import os
import stat as stat_module
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from overnight.errors import UserError

FORMATS = {
    ".txt": "txt",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
COMPRESSIONS = {".gz": "gz", ".zst": "zst"}
STDIN = "-"


@dataclass(frozen=True)
class Source:
    """One file to read.

    Args:
        path: as it was given, with ``/``; "-" is standard input.
        format: txt, json, jsonl, csv, tsv or parquet.
        compression: "", gz or zst.
        bytes: size on disk.
        mtime_ns: time of last change in nanoseconds.
        split: the split all its documents go to, or "" to let their hash decide.
    """

    path: str
    format: str
    compression: str
    bytes: int
    mtime_ns: int
    split: str = ""


def find_sources(
    sources: Sequence[str], format: str | None = None, split: str = "", exclude: Path | None = None
) -> list[Source]:
    """The files that the arguments name, in reading order: arguments as given, folders and globs sorted.

    Args:
        sources: files, folders (searched whole; hidden names left out), globs, or "-".
        format: read every file as this format (such as ``jsonl`` or ``jsonl.gz``) whatever its name says.
        split: the split these files are meant for, or "".
        exclude: a folder that is left out of the search: the one being written.

    Raises:
        UserError: nothing there, not readable, or a format that is not known.
    """
    forced = _split_format(format) if format else None
    found: dict[str, Source] = {}
    for argument in map(str, sources):
        if argument == STDIN:
            found.setdefault(STDIN, _stdin(forced, split))
            continue
        for path in _expand(argument, forced is not None, exclude):
            real = os.path.realpath(path)
            if real not in found:
                found[real] = _source(path, forced, split)
    return list(found.values())


def sources_digest(sources: Sequence[Source]) -> str:
    """sha256 of the names, sizes and splits of a list of sources: two hosts that read one list agree on it."""
    lines = (f"{s.path}\0{s.bytes}\0{s.format}\0{s.compression}\0{s.split}\n" for s in sources)
    return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _split_format(name: str) -> tuple[str, str | None]:
    """``jsonl.gz`` → (jsonl, gz); without an ending the compression is told from the file's own name."""
    stem, dot, ending = name.lower().lstrip(".").partition(".")
    stem = FORMATS.get("." + stem, "")
    compression = COMPRESSIONS.get("." + ending) if dot else None
    if not stem or (dot and compression is None):
        known = ", ".join(sorted(set(FORMATS.values())))
        raise UserError(f"Format {name!r} is not known.", f"Give one of {known}, each also with .gz or .zst.")
    return stem, compression


def _name_format(name: str) -> tuple[str, str]:
    """Format and compression as a file's name tells them; the format is "" where it does not."""
    stem, ending = os.path.splitext(name.lower())
    compression = COMPRESSIONS.get(ending, "")
    if compression:
        ending = os.path.splitext(stem)[1]
    return FORMATS.get(ending, ""), compression


def _stdin(forced: tuple[str, str | None] | None, split: str) -> Source:
    if forced is None:
        raise UserError(
            "Standard input has no name to tell its format from.", "Add --format, such as --format jsonl or txt."
        )
    return Source(STDIN, forced[0], forced[1] or "", 0, 0, split)


def _source(path: str, forced: tuple[str, str | None] | None, split: str) -> Source:
    named_format, named_compression = _name_format(path)
    if forced is None:
        if not named_format:
            raise UserError(
                f"{path}: its name does not tell its format.",
                f"Add --format, or use an ending of {', '.join(FORMATS)}, each also with .gz or .zst.",
            )
        format, compression = named_format, named_compression
    else:
        format, compression = forced[0], named_compression if forced[1] is None else forced[1]
    try:
        stat = os.stat(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.", "Check the path and its permissions.") from None
    if not stat_module.S_ISREG(stat.st_mode):
        raise UserError(f"{path} is not a regular file.", "Pipe it in: give - as the source, with --format.")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path} cannot be read: Permission denied.", "Make it readable, or leave it out.")
    return Source(Path(path).as_posix(), format, compression, stat.st_size, stat.st_mtime_ns, split)


def _expand(argument: str, any_name: bool, exclude: Path | None) -> Iterator[str]:
    if os.path.isdir(argument):
        files = list(_walk(argument, any_name, exclude))
        if not files:
            raise UserError(
                f"{argument} holds no file with a known ending ({', '.join(FORMATS)}, each also .gz or .zst).",
                "Name the files or a glob, and add --format where their names do not tell it.",
            )
        yield from files
    elif os.path.lexists(argument):
        yield argument
    elif glob.has_magic(argument):
        matches = sorted(glob.glob(argument, recursive=True), key=lambda p: Path(p).parts)
        if not matches:
            raise UserError(f"No file matches {argument}.", "Check the pattern; ** searches folders inside folders.")
        for match in matches:
            if os.path.isfile(match) and not (exclude and exclude in Path(match).resolve().parents):
                yield match
    else:
        raise UserError(f"{argument} does not exist.", "Check the path.")


def _walk(folder: str, any_name: bool, exclude: Path | None) -> Iterator[str]:
    def fail(error: OSError) -> None:
        raise UserError(f"{error.filename} cannot be read: {error.strerror}.", "Make it readable, or leave it out.")

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not (exclude and Path(parent, name).resolve() == exclude)
        )
        if exclude and Path(parent).resolve() == exclude:
            folders.clear()
            continue
        for name in sorted(names):
            if not name.startswith(".") and (any_name or _name_format(name)[0]):
                yield os.path.join(parent, name)
