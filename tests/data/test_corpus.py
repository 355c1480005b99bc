"""Reading a corpus folder: its bytes, its edges, and what a damaged one gets."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.corpus import write_corpus

from overnight.data.corpus import ByteStream, Corpus
from overnight.errors import UserError

SHARDS = [[b"one ", b"two ", b""], [], [b"three "], [b"four"]]
TEXT = b"one two three four"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_corpus(tmp_path / "corpus", train=SHARDS, valid=[[b"held out"]])


def test_a_split_is_one_stream(folder: Path) -> None:
    stream = Corpus(folder).split("train")
    assert len(stream) == len(TEXT)
    assert stream.read(0, len(TEXT)).tobytes() == TEXT
    assert stream.shard_starts.tolist() == [0, 8, 14]
    assert np.unique(stream.document_starts).tolist() == [0, 4, 8, 14]
    assert len(Corpus(folder).split("valid")) == 8
    assert len(Corpus(folder).split("test")) == 0


@given(start=st.integers(0, 60), length=st.integers(0, 60), limit=st.integers(1, 30))
def test_reads_go_round_the_stream(
    tmp_path_factory: pytest.TempPathFactory, start: int, length: int, limit: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "round"
    if not folder.exists():
        write_corpus(folder, train=SHARDS)
    stream = Corpus(folder).split("train").head(limit)
    text = TEXT[:limit]
    assert len(stream) == len(text)
    assert stream.read(start, length).tobytes() == bytes(text[at % len(text)] for at in range(start, start + length))


def test_the_head_of_a_stream_keeps_its_edges(folder: Path) -> None:
    head = Corpus(folder).split("train").head(9)
    assert len(head) == 9
    assert head.shard_starts.tolist() == [0, 8]
    assert np.unique(head.document_starts).tolist() == [0, 4, 8]
    assert len(head.head(100)) == 9


def test_digest_is_as_documented(folder: Path, tmp_path: Path) -> None:
    shards = [b"".join(documents) for documents in [*SHARDS, [b"held out"]]]
    lines = "\n".join(hashlib.sha256(shard).hexdigest() for shard in shards)
    assert Corpus(folder).digest == hashlib.sha256(lines.encode()).hexdigest()
    other = write_corpus(
        tmp_path / "other", train=[[b"one two ", b""], [], [b"three "], [b"four"]], valid=[[b"held out"]]
    )
    assert Corpus(other).digest == Corpus(folder).digest
    swapped = write_corpus(tmp_path / "swapped", train=[SHARDS[2], SHARDS[0]])
    assert Corpus(swapped).digest != Corpus(folder).digest


def test_bytes_stay_on_disk(folder: Path) -> None:
    shard = Corpus(folder).split("train").shards[0]
    assert isinstance(shard.data, np.memmap)
    assert not shard.data.flags.writeable


def test_a_whole_corpus_verifies(folder: Path) -> None:
    Corpus(folder).verify()


@pytest.mark.parametrize("name", ["train/00002.bin", "train/00002.idx", "valid/00000.bin"])
def test_an_altered_file_is_named(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-1] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(UserError, match=f"{name} was altered"):
        Corpus(folder).verify()


@pytest.mark.parametrize("name", ["train/00000.bin", "train/00000.idx"])
@pytest.mark.parametrize("change", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1])])
def test_a_missing_or_truncated_file_is_named_at_once(folder: Path, name: str, change: Callable[[Path], Any]) -> None:
    change(folder / name)
    with pytest.raises(UserError, match=name):
        Corpus(folder)


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("splits"),
        lambda manifest: manifest["splits"]["train"]["shards"][0].pop("sha256"),
        lambda manifest: manifest["splits"].update(train=[]),
    ],
)
def test_a_manifest_without_its_fields_is_named(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    edit(folder, change)
    with pytest.raises(UserError, match=r"manifest\.json"):
        Corpus(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", "null"])
def test_an_unreadable_manifest_is_named(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json cannot be read"):
        Corpus(folder)


def test_not_a_corpus(tmp_path: Path, folder: Path) -> None:
    for absent in (tmp_path, tmp_path / "absent", folder / "manifest.json"):
        with pytest.raises(UserError, match="not a prepared corpus"):
            Corpus(absent)
    edit(folder, lambda manifest: manifest.update(format="overnight-corpus/9"))
    with pytest.raises(UserError, match="format 'overnight-corpus/9'"):
        Corpus(folder)


def test_files_that_vanish_later_are_named(folder: Path) -> None:
    corpus = Corpus(folder)
    (folder / "valid" / "00000.idx").unlink()
    with pytest.raises(UserError, match=r"valid/00000\.idx is missing"):
        corpus.verify()


def test_unknown_split(folder: Path) -> None:
    with pytest.raises(UserError, match="'dev' is not a split"):
        Corpus(folder).split("dev")


def test_an_empty_stream_has_no_bytes_to_read() -> None:
    with pytest.raises(ValueError, match="empty"):
        ByteStream([]).read(0, 1)
    assert ByteStream([]).document_starts.tolist() == []
