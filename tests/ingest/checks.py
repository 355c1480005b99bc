"""A corpus folder read and checked by docs/corpus-format.md alone."""

import hashlib
import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

SPLITS = ("train", "valid", "test")


def documents_of(folder: Path) -> dict[str, list[bytes]]:
    """Documents by split, after every promise of the manifest was checked."""
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["format"] == "overnight-corpus/1"
    assert list(manifest["splits"]) == list(SPLITS)
    found: dict[str, list[bytes]] = {}
    files = {"manifest.json"}
    for split, entry in manifest["splits"].items():
        found[split] = []
        for number, shard in enumerate(entry["shards"]):
            assert shard["path"] == f"{split}/{number:05d}.bin"
            assert shard["offsets"] == f"{split}/{number:05d}.idx"
            files |= {shard["path"], shard["offsets"]}
            data, index = (folder / shard["path"]).read_bytes(), (folder / shard["offsets"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == shard["sha256"]
            assert hashlib.sha256(index).hexdigest() == shard["offsets_sha256"]
            offsets = struct.unpack(f"<{len(index) // 8}Q", index)
            assert offsets[0] == 0
            assert offsets[-1] == len(data) == shard["bytes"]
            assert len(offsets) == shard["documents"] + 1 > 1
            found[split] += [data[a:b] for a, b in pairwise(offsets)]
        assert entry["documents"] == len(found[split])
        assert entry["bytes"] == sum(map(len, found[split]))
    assert manifest["counts"]["documents"] == sum(map(len, found.values()))
    assert manifest["counts"]["bytes"] == sum(len(d) for documents in found.values() for d in documents)
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()} == files
    read = sum(source["documents"] for source in manifest["sources"])
    assert read == manifest["counts"]["documents"] + manifest["counts"]["duplicates"]
    return found


def all_documents(folder: Path) -> list[bytes]:
    """Documents of all splits, the splits one after another."""
    return [document for documents in documents_of(folder).values() for document in documents]


def digest_of(folder: Path) -> str:
    """The digest of docs/corpus-format.md."""
    splits = json.loads((folder / "manifest.json").read_text())["splits"]
    lines = [shard["sha256"] for split in SPLITS for shard in splits[split]["shards"]]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_jsonl(path: Path, texts: list[str], **more: Any) -> Path:
    """A file of JSON lines with the texts under "text"."""
    path.write_text("".join(json.dumps({"text": text, **more}) + "\n" for text in texts))
    return path
