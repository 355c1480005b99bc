"""A corpus folder written straight from docs/corpus-format.md, without the package's own writer."""

import hashlib
import json
from pathlib import Path

import numpy as np


def write_corpus(folder: Path, **splits: list[list[bytes]]) -> Path:
    """Write ``train=[[document, …], …]``: for every split its shards, for every shard its documents."""
    entries = {}
    for name in ("train", "valid", "test"):
        shards = []
        for index, documents in enumerate(splits.get(name, [])):
            data = b"".join(documents)
            offsets = np.cumsum([0, *map(len, documents)]).astype("<u8").tobytes()
            (folder / name).mkdir(parents=True, exist_ok=True)
            path, offsets_path = f"{name}/{index:05d}.bin", f"{name}/{index:05d}.idx"
            (folder / path).write_bytes(data)
            (folder / offsets_path).write_bytes(offsets)
            shards.append(
                {
                    "path": path,
                    "offsets": offsets_path,
                    "bytes": len(data),
                    "documents": len(documents),
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "offsets_sha256": hashlib.sha256(offsets).hexdigest(),
                }
            )
        total = {key: sum(shard[key] for shard in shards) for key in ("bytes", "documents")}
        entries[name] = {**total, "shards": shards}
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {"format": "overnight-corpus/1", "overnight": "0", "settings": {}, "part": None, "splits": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
