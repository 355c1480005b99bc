"""Text → a corpus of words: formats, splits, policies, layouts, going on after a stop."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data.words.reading import sentences_of

from overnight.data.corpus import Corpus
from overnight.data.ingest import PrepareSettings
from overnight.data.ingest.pieces import Segment
from overnight.data.ingest.sources import Source
from overnight.data.words import WordCorpus
from overnight.data.words import preparation as module
from overnight.data.words.preparation import prepare_words
from overnight.data.words.settings import WordSettings
from overnight.data.words.writing import WordRunner
from overnight.errors import UserError

LINES = ["the cat sat", "the dog sat on the mat", "a cat"]
ALL = WordSettings(split=(1, 0, 0))


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def many_lines(count: int) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(f"w{i}" for i in rng.zipf(1.5, rng.integers(1, 9)) % 500) for _ in range(count)]


def test_the_corpus_of_a_text(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", "the cat sat\n\nthe dog  sat\ton the mat\r\n \na cat")
    manifest = prepare_words([source], tmp_path / "out", ALL)
    corpus = WordCorpus.open(tmp_path / "out")
    corpus.verify()
    assert sentences_of(tmp_path / "out", "train") == [[*line.split(), "<eos>"] for line in LINES]
    assert corpus.words == ["<eos>", "the", "cat", "sat", "a", "dog", "mat", "on", "<unk>"]
    assert corpus.counts.tolist() == [3, 3, 2, 2, 1, 1, 1, 1, 0]
    assert (corpus.vocab_size, corpus.unk, corpus.eos, corpus.bos) == (9, 8, 0, None)
    assert manifest["counts"]["empty"] == 2
    assert manifest["splits"]["train"]["words"] == len(corpus.split("train")) == 14
    assert corpus.vocabulary.digest == corpus.vocabulary_digest


@pytest.mark.parametrize("kind", ["txt", "txt.gz", "jsonl", "json", "csv", "tsv", "parquet", "no ending"])
def test_every_format_gives_the_same_corpus(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("news.en-00001" if kind == "no ending" else f"a.{kind}")
    text = "".join(line + "\n" for line in LINES)
    if kind == "txt.gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif kind == "jsonl":
        write(path, "".join(json.dumps({"text": line}) + "\n" for line in LINES))
    elif kind == "json":
        # a record of two lines is two sentences
        write(path, json.dumps([{"text": "\n".join(LINES[:2])}, {"text": LINES[2]}]))
    elif kind == "parquet":
        pq.write_table(pa.table({"text": LINES}), path)
    elif kind in ("csv", "tsv"):
        write(path, "text\n" + text)
    else:
        write(path, text)
    prepare_words([path], tmp_path / "out", ALL)
    assert sentences_of(tmp_path / "out", "train") == [[*line.split(), "<eos>"] for line in LINES]


def test_words_are_cut_by_size_and_by_count(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", "\n".join(LINES))
    prepare_words([source], tmp_path / "size", WordSettings(vocab_size=4, split=(1, 0, 0)))
    assert WordCorpus.open(tmp_path / "size").words == ["<unk>", "<eos>", "the", "cat"]
    assert sentences_of(tmp_path / "size", "train")[1] == ["the", "<unk>", "<unk>", "<unk>", "the", "<unk>", "<eos>"]
    prepare_words([source], tmp_path / "count", WordSettings(min_count=2, split=(1, 0, 0)))
    found = WordCorpus.open(tmp_path / "count")
    assert found.words == ["<unk>", "<eos>", "the", "cat", "sat"]
    assert found.counts.tolist() == [4, 3, 3, 2, 2]


def test_no_ends_and_empty_lines_as_ends(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", "a b\n\n\nc\n")
    prepare_words([source], tmp_path / "none", WordSettings(eos="none", split=(1, 0, 0)))
    assert sentences_of(tmp_path / "none", "train") == [["a", "b"], ["c"]]
    assert WordCorpus.open(tmp_path / "none").eos is None
    prepare_words([source], tmp_path / "kept", WordSettings(empty_lines="eos", eos="</s>", split=(1, 0, 0)))
    assert sentences_of(tmp_path / "kept", "train") == [["a", "b", "</s>"], ["</s>"], ["</s>"], ["c", "</s>"]]
    assert WordCorpus.open(tmp_path / "kept").counts[0] == 4


def test_a_vocabulary_file_decides_the_ids(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", "\n".join(LINES))
    vocabulary = write(tmp_path / "v", "zebra 7\n<S> 9\n<UNK> 1\nthe 1\n")
    prepare_words([source], tmp_path / "out", WordSettings(vocab_file=str(vocabulary), split=(1, 0, 0)))
    corpus = WordCorpus.open(tmp_path / "out")
    assert corpus.words == ["zebra", "<S>", "<UNK>", "the"]
    assert corpus.counts.tolist() == [0, 3, 8, 3]
    assert corpus.split("train").read(0, 4).tolist() == [3, 2, 2, 1]


def test_only_the_training_split_is_counted_and_a_hash_splits_the_rest(tmp_path: Path) -> None:
    lines = many_lines(4000)
    source = write(tmp_path / "a.txt", "\n".join(lines))
    prepare_words([source], tmp_path / "out", WordSettings(split=(8, 1, 1)))
    found = {split: sentences_of(tmp_path / "out", split) for split in ("train", "valid", "test")}
    assert sum(map(len, found.values())) == 4000
    assert 300 < len(found["valid"]) < 500
    train = Counter(word for sentence in found["train"] for word in sentence)
    corpus = WordCorpus.open(tmp_path / "out")
    assert dict(zip(corpus.words, corpus.counts.tolist(), strict=True)) == {**train, "<unk>": 0}
    assert (np.diff(corpus.counts) <= 0).all()
    # a sentence's split is a function of its text alone
    prepare_words([source], tmp_path / "again", WordSettings(split=(8, 1, 1), vocab_size=50))
    assert list(map(len, sentences_of(tmp_path / "again", "valid"))) == list(map(len, found["valid"]))


def test_files_may_be_held_out_and_the_rest_split(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", "\n".join(many_lines(500)))
    held = write(tmp_path / "b.txt", "w1 nowhere\n")
    prepare_words([source], tmp_path / "out", test=[held])
    assert sentences_of(tmp_path / "out", "test") == [["w1", "<unk>", "<eos>"]]
    assert len(sentences_of(tmp_path / "out", "train")) == 500
    manifest = prepare_words([source], tmp_path / "shared", WordSettings(split=(8, 2, 0)), test=[held])
    assert manifest["splits"]["test"]["documents"] == 1
    assert 60 < manifest["splits"]["valid"]["documents"] < 140


def test_one_billion_word(tmp_path: Path) -> None:
    root, told = tmp_path / "1b", list[str]()
    for n in (2, 1, 10):
        write(root / f"training-monolingual.tokenized.shuffled/news.en-{n:05d}-of-00100", f"shard {n}\n")
    for n in range(3):
        name = f"heldout-monolingual.tokenized.shuffled/news.en.heldout-{n:05d}-of-00050"
        write(root / name, f"held {n}\n")
    write(root / "heldout-monolingual.tokenized.shuffled/news.en-00000-of-00100", "held 0\nheld 1\nheld 2\n")
    write(root / "1b_word_vocab.txt", "<S> 9\n</S> 9\nshard 3\n1 1\n2 1\n<UNK> 1\n")
    prepare_words([root], tmp_path / "out", notify=told.append)
    assert sentences_of(tmp_path / "out", "train") == [
        ["shard", "1", "<S>"],
        ["shard", "2", "<S>"],
        ["shard", "<UNK>", "<S>"],
    ]
    assert sentences_of(tmp_path / "out", "test") == [["<UNK>", "<UNK>", "<S>"]]
    assert sentences_of(tmp_path / "out", "valid") == [["<UNK>", "1", "<S>"]]
    assert told[0] == "Splits: One Billion Word (train 3, valid 1, test 1)."


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = many_lines(3000)
    files = [write(tmp_path / f"{n}.txt", "\n".join(lines[n * 500 : n * 500 + 500])) for n in range(6)]
    settings = WordSettings(split=(9, 1, 0), text=PrepareSettings(document="line", shard_mb=0.004))
    monkeypatch.setattr(module, "plan_pieces", one_piece_a_file)
    prepare_words(files, tmp_path / "whole", settings)
    monkeypatch.setattr("overnight.data.ingest.run._COMMIT_SECONDS", 0)
    calls, counted = [], []
    encode = WordRunner.__call__

    def stopping(self: WordRunner, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(WordRunner, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        prepare_words(files, tmp_path / "out", settings)
    with pytest.raises(UserError, match="is not a prepared corpus"):
        WordCorpus.open(tmp_path / "out")
    monkeypatch.setattr("overnight.data.words.counted._counted", counted.append)
    with pytest.raises(UserError, match="interrupted run with other settings \\(min_count\\)"):
        prepare_words(files, tmp_path / "out", WordSettings(**{**vars(settings), "min_count": 2}))
    manifest = prepare_words(files, tmp_path / "out", settings)
    assert len(calls) == 4 + 3
    assert counted == []
    whole = json.loads((tmp_path / "whole" / "manifest.json").read_bytes())
    assert manifest == whole
    assert len(manifest["splits"]["train"]["shards"]) > 3
    WordCorpus.open(tmp_path / "out").verify()


def one_piece_a_file(sources: Sequence[Source], settings: PrepareSettings, row_groups: object) -> list[tuple[Segment]]:
    return [(Segment(index, 0, None, source.bytes),) for index, source in enumerate(sources)]


def test_a_finished_corpus_stays_unless_forced(tmp_path: Path) -> None:
    source = write(tmp_path / "a.txt", "\n".join(LINES))
    told: list[str] = []
    first = prepare_words([source], tmp_path / "out", ALL)
    assert prepare_words([source], tmp_path / "out", ALL, notify=told.append) == first
    assert told == [f"{tmp_path / 'out'} is already complete; nothing to do."]
    with pytest.raises(UserError, match="already holds a corpus made otherwise \\(vocab_size\\)"):
        prepare_words([source], tmp_path / "out", WordSettings(vocab_size=5, split=(1, 0, 0)))
    prepare_words([source], tmp_path / "out", WordSettings(vocab_size=5, split=(1, 0, 0)), force=True)
    assert WordCorpus.open(tmp_path / "out").vocab_size == 5


PEAK = """
import re, sys
from overnight.data.words.preparation import prepare_words
from overnight.data.words.settings import WordSettings
prepare_words(sys.argv[1:2], sys.argv[2], WordSettings(split=(1, 0, 0)))
print(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the memory")
def test_memory_does_not_grow_with_the_text(tmp_path: Path) -> None:
    block = "".join(line + "\n" for line in many_lines(20_000))
    peaks = []
    for times in (15, 60):
        source = write(tmp_path / f"{times}.txt", block * times)
        ran = subprocess.run(
            [sys.executable, "-c", PEAK, source, tmp_path / str(times)], capture_output=True, text=True, check=True
        )
        peaks.append(int(ran.stdout) / 1024)
    assert source.stat().st_size > 17e6
    # the longer text is 13.5 MB longer, and would be several times that as words; allocators and buffers settle late
    assert peaks[1] < peaks[0] + 9
    assert peaks[1] < 120


def test_more_than_65536_words_take_four_bytes(tmp_path: Path) -> None:
    source = write(
        tmp_path / "a.txt", "\n".join(" ".join(f"x{i}" for i in range(n, n + 1000)) for n in range(0, 66000, 1000))
    )
    manifest = prepare_words([source], tmp_path / "out", ALL)
    assert (manifest["dtype"], manifest["vocabulary"]["size"]) == ("<i4", 66002)
    corpus = WordCorpus.open(tmp_path / "out")
    assert corpus.split("train").read(0, 2000).max() > 0
    assert sentences_of(tmp_path / "out", "train")[65][-2:] == ["x65999", "<eos>"]


def test_a_corpus_of_one_kind_is_not_one_of_the_other(tmp_path: Path, corpus: Path) -> None:
    prepare_words([write(tmp_path / "a.txt", "a b\n")], tmp_path / "out", ALL)
    with pytest.raises(UserError, match="is a corpus of words, not of bytes"):
        Corpus(tmp_path / "out")
    with pytest.raises(UserError, match=r"is a corpus of bytes, not of words.*--words"):
        WordCorpus.open(corpus)
