"""A corpus of words read from docs/corpus-format.md alone, as lists of sentences of words."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np


def sentences_of(folder: Path, split: str) -> list[list[str]]:
    """The sentences of a split."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    words = (folder / "vocab.txt").read_text().split("\n")
    width = np.dtype(manifest["dtype"]).itemsize
    found = []
    for shard in manifest["splits"][split]["shards"]:
        ids = np.fromfile(folder / shard["path"], dtype=manifest["dtype"])
        starts = np.fromfile(folder / shard["offsets"], dtype="<u8") // width
        found += [[words[i] for i in ids[a:b]] for a, b in pairwise(starts)]
    return found
