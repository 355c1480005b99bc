"""Parts that several hosts prepared → one corpus."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import overnight
from overnight.data.ingest.disk import write_error
from overnight.data.ingest.faults import LISTED
from overnight.data.ingest.folder import FORMAT, CorpusFolder, read_manifest
from overnight.data.ingest.preparation import log
from overnight.data.ingest.progress import Progress
from overnight.data.ingest.settings import SPLITS
from overnight.data.ingest.shards import Shard, shard_paths
from overnight.errors import UserError

Part = tuple[Path, dict[str, Any]]


def join_parts(
    parts: Sequence[str | Path],
    out: str | Path,
    *,
    force: bool = False,
    notify: Callable[[str], None] = log,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Check the parts of a corpus and join them into one folder.

    All parts must be there once, with equal settings and sources, and every file must have the digest its manifest
    names. Files are hard-linked where the file system can and copied where it cannot; the parts stay as they are. The
    documents stand in the order of one run over all sources.

    Args:
        parts: folders of the parts in any order, or one folder that holds them.
        out: the corpus folder to write.
        force: replace the corpus in ``out``.
        notify: told in a sentence what there is to know.
        progress: counters to keep up to date.

    Returns:
        The manifest.

    Raises:
        UserError: a part is missing, doubled, of another corpus, or altered.
    """
    progress = progress or Progress()
    ordered = _checked([Path(part) for part in parts])
    folder = CorpusFolder(Path(out))
    for path, _ in ordered:
        if path.resolve() == folder.path.resolve():
            raise UserError(f"{out} is itself a part.", "Choose another folder for --out.")
    folder.refuse_foreign()
    if folder.finished() is not None and not force:
        raise UserError(f"{out} already holds a corpus.", "Add --force to replace it, or choose another --out.")
    if (folder.plan() or {}).get("pieces") and not force:
        raise UserError(
            f"{out} holds an interrupted overnight prepare.", "Add --force to give it up, or choose another --out."
        )
    progress.bytes_total = sum(_size(manifest) for _, manifest in ordered)
    with folder.locked():
        try:
            folder.begin({"join": [str(path) for path, _ in ordered]})
            manifest = _join(ordered, folder, progress)
            if not manifest["counts"]["documents"]:
                raise UserError("The parts hold no document.", "Prepare them from other sources.")
            folder.finish(manifest)
        except UserError:
            folder.discard()
            raise
        except OSError as error:
            folder.discard()
            raise write_error(error, folder.path, progress) from error
    if manifest["settings"]["dedup"]:
        notify("Duplicates were dropped within each part; those that stand in two parts are still there.")
    return manifest


def _checked(paths: list[Path]) -> list[Part]:
    """The parts in order, each once and all alike."""
    if len(paths) == 1 and paths[0].is_dir() and read_manifest(paths[0]) is None:
        within = sorted(p for p in paths[0].iterdir() if p.is_dir() and read_manifest(p) is not None)
        if not within:
            raise UserError(f"{paths[0]} holds no finished parts.", "Name the folders of the parts.")
        paths = within
    found: dict[int, Part] = {}
    count = 0
    for path in paths:
        manifest = read_manifest(path)
        if manifest is None:
            raise UserError(
                f"{path} is not a finished corpus (no manifest.json of one).",
                "Let overnight prepare --part finish there first.",
            )
        if manifest["part"] is None:
            raise UserError(f"{path} is a whole corpus, not a part of one.", "Join what --part prepared.")
        number, of = manifest["part"]
        first_path, first = next(iter(found.values()), (path, manifest))
        if of != first["part"][1]:
            raise UserError(
                f"{path} is part {number}/{of}, {first_path} is part {first['part'][0]}/{first['part'][1]}.",
                "Join parts of one corpus.",
            )
        if number in found:
            raise UserError(f"{path} and {found[number][0]} are both part {number}/{of}.", "Name each part once.")
        names = [n for n in first["settings"] if first["settings"][n] != manifest["settings"].get(n)]
        if names:
            named = ", ".join("sources" if name == "sources_sha256" else name for name in names)
            raise UserError(
                f"{path} and {first_path} were not made alike ({named}).",
                "Prepare all parts with the same arguments over the same list of sources.",
            )
        found[number] = path, manifest
        count = of
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in found]
    if missing:
        raise UserError(f"Parts are missing: {', '.join(missing)}.", "Prepare them, or name their folders too.")
    return [found[number] for number in sorted(found)]


def _join(parts: Sequence[Part], folder: CorpusFolder, progress: Progress) -> dict[str, Any]:
    splits: dict[str, Any] = {}
    for split in SPLITS:
        shards: list[Shard] = []
        for path, manifest in parts:
            shard: Shard
            for shard in manifest["splits"][split]["shards"]:
                data, offsets = shard_paths(split, len(shards))
                _take(path / shard["path"], folder.path / data, shard["sha256"], progress)
                _take(path / shard["offsets"], folder.path / offsets, shard["offsets_sha256"], progress)
                shards.append({**shard, "path": data, "offsets": offsets})
                progress.wrote(shard["documents"], shard["bytes"] + 8 * shard["documents"])
        splits[split] = {
            "bytes": sum(s["bytes"] for s in shards),
            "documents": sum(s["documents"] for s in shards),
            "shards": shards,
        }
    counts: dict[str, int] = {}
    sources: dict[str, dict[str, Any]] = {}
    for _, manifest in parts:
        for name, value in manifest["counts"].items():
            counts[name] = counts.get(name, 0) + value
        for source in manifest["sources"]:
            entry = sources.setdefault(source["path"], {"path": source["path"], "bytes": 0, "documents": 0})
            entry["bytes"] += source["bytes"]
            entry["documents"] += source["documents"]
    return {
        "format": FORMAT,
        "overnight": overnight.__version__,
        "settings": parts[0][1]["settings"],
        "part": None,
        "sources": list(sources.values()),
        "counts": counts,
        "errors": [error for _, manifest in parts for error in manifest["errors"]][:LISTED],
        "splits": splits,
    }


def _take(source: Path, target: Path, digest: str, progress: Progress) -> None:
    """Check a file's digest and give it a second place."""
    if not source.is_file():
        raise UserError(f"{source} is missing.", "Prepare this part anew.")
    found = hashlib.sha256()
    with open(source, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
            progress.read(len(block))
    if found.hexdigest() != digest:
        raise UserError(f"{source} was altered after its manifest was written.", "Prepare this part anew.")
    target.parent.mkdir(exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())


def _size(manifest: dict[str, Any]) -> int:
    splits = manifest["splits"].values()
    return sum(s["bytes"] + 8 * (s["documents"] + len(s["shards"])) for s in splits)
