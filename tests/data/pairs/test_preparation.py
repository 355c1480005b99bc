"""Parallel text → a corpus of pairs: what is kept, what is left out and counted, what is refused."""

import gzip
import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

from overnight.cli import main
from overnight.data.pairs import PairCorpus
from overnight.data.pairs.batches import gather
from overnight.data.pairs.preparation import prepare_pairs
from overnight.data.pairs.settings import PairSettings
from overnight.errors import UserError

GERMAN = ["eine rose ist eine rose", "", "ein hund", "die katze schläft auf der matte", "hallo <eos>"]
ENGLISH = ["a rose is a rose", "nothing", "a dog", "the cat sleeps on the mat", "hello <unk>"]
needs_tokenizers = pytest.mark.skipif(
    importlib.util.find_spec("tokenizers") is None, reason="the extra text is not installed"
)


def write(folder: Path, name: str, lines: list[str]) -> tuple[Path, Path]:
    paths = (folder / f"{name}.de", folder / f"{name}.en")
    for path, side in zip(paths, (lines, [line.upper() for line in lines]), strict=True):
        path.write_text("".join(line + "\n" for line in side))
    return paths


def texts(folder: Path) -> tuple[Path, Path]:
    de, en = folder / "t.de", folder / "t.en.gz"
    de.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(GERMAN).encode() + b"\r\n")  # a mark of UTF-8, and Windows' lines
    en.write_bytes(gzip.compress(("\n".join(ENGLISH)).encode()))  # no end of the last line
    return de, en


def said(corpus: PairCorpus, split: str = "train") -> list[tuple[str, str]]:
    stream = corpus.split(split)
    source, target = corpus.coder("source"), corpus.coder("target")
    out = []
    for index in range(stream.pairs):
        batch = gather(stream, np.array([index]), corpus.bos)
        assert batch.input_UB[0, 0] == corpus.bos
        out.append((source.decode(batch.source_TB[:, 0].tolist()), target.decode(batch.target_UB[:, 0].tolist())))
    return out


def test_the_corpus_of_two_texts(tmp_path: Path) -> None:
    manifest = prepare_pairs(texts(tmp_path), tmp_path / "out", PairSettings(max_length=5))
    corpus = PairCorpus(tmp_path / "out")
    corpus.verify()
    assert manifest["counts"] == {"pairs": 3, "empty": 1, "too_long": 1}
    expected = [(GERMAN[0], ENGLISH[0]), (GERMAN[2], ENGLISH[2]), ("hallo <unk>", "hello <unk>")]
    assert said(corpus) == expected
    about = manifest["splits"]["train"]
    assert (about["source_words"], about["target_words"], about["source_unk"], about["target_unk"]) == (9, 9, 1, 1)
    assert corpus.vocab_sizes == (15, 13)  # those of pairs that are too long are counted too
    assert corpus.coder("source").vocabulary.words[-1] == b"<bos>"
    assert not (tmp_path / "out" / ".overnight-partial").exists()
    assert not corpus.joint


def test_held_out_pairs_keep_their_text_and_are_never_too_long(tmp_path: Path) -> None:
    valid = write(tmp_path, "v", ["ein  unbekannter\thund", "", "eine rose ist eine rose ist eine rose"])
    prepare_pairs(texts(tmp_path), tmp_path / "out", PairSettings(max_length=3), valid=valid)
    corpus = PairCorpus(tmp_path / "out")
    assert said(corpus)[0] == (GERMAN[2], ENGLISH[2])
    assert corpus.text("valid", "source") == ["ein unbekannter hund", "eine rose ist eine rose ist eine rose"]
    assert corpus.text("valid", "target") == [line.upper() for line in corpus.text("valid", "source")]
    assert said(corpus, "valid")[0][0] == "ein <unk> hund"
    with pytest.raises(UserError, match="keeps no text of its split train"):
        corpus.text("train", "source")
    (tmp_path / "out" / "valid.target.txt").write_text("another\n")
    with pytest.raises(UserError, match="was altered"):
        corpus.verify()


def test_one_vocabulary_for_both(tmp_path: Path) -> None:
    prepare_pairs(texts(tmp_path), tmp_path / "out", PairSettings(joint=True, min_count=2))
    corpus = PairCorpus(tmp_path / "out")
    words = corpus.coder("source").vocabulary.words
    assert words == corpus.coder("target").vocabulary.words
    assert {b"rose", b"eine", b"a", b"the"} < set(words)
    assert b"hund" not in words
    assert corpus.joint


def test_the_same_texts_give_the_same_bytes_and_are_not_read_twice(tmp_path: Path) -> None:
    told: list[str] = []
    files = texts(tmp_path)
    for name in ("one", "two"):
        prepare_pairs(files, tmp_path / name)
    manifests = [json.loads((tmp_path / name / "manifest.json").read_text()) for name in ("one", "two")]
    assert manifests[0] == manifests[1]
    prepare_pairs(files, tmp_path / "one", notify=told.append)
    assert "already complete; nothing to do" in told[0]
    with pytest.raises(UserError, match=r"already holds a corpus made otherwise \(min_count\)"):
        prepare_pairs(files, tmp_path / "one", PairSettings(min_count=2))
    prepare_pairs(files, tmp_path / "one", PairSettings(min_count=2), force=True)
    assert PairCorpus(tmp_path / "one").vocab_sizes < PairCorpus(tmp_path / "two").vocab_sizes


def test_small_shards_hold_whole_pairs(tmp_path: Path) -> None:
    de, en = write(tmp_path, "t", [f"w{i} w{i % 7} w{i % 3}" for i in range(200)])
    prepare_pairs((de, en), tmp_path / "large")
    prepare_pairs((de, en), tmp_path / "small", PairSettings(shard_mb=0.001))
    one, many = PairCorpus(tmp_path / "large"), PairCorpus(tmp_path / "small")
    assert len(many.shards("train")) > 3
    assert said(one) == said(many)
    assert many.split("train").source_lengths.tolist() == [4] * 200


@needs_tokenizers
@pytest.mark.parametrize("joint", [True, False])
def test_pieces_of_words(tmp_path: Path, joint: bool) -> None:
    valid = write(tmp_path, "v", ["eine hose ist kein hund", "<eos> <bos>"])
    prepare_pairs(texts(tmp_path), tmp_path / "out", PairSettings(bpe=60, joint=joint), valid=valid)
    corpus = PairCorpus(tmp_path / "out")
    corpus.verify()
    assert max(corpus.vocab_sizes) <= 60
    assert said(corpus)[:2] == [(GERMAN[0], ENGLISH[0]), (GERMAN[2], ENGLISH[2])]
    if joint:
        assert corpus.vocab_sizes[0] == corpus.vocab_sizes[1]
        assert said(corpus, "valid")[0][0] == "eine hose ist kein hund"
    coder = corpus.coder("source")
    marks = {coder.vocabulary.eos, coder.vocabulary.bos}
    assert not marks & set(coder.encode([b"<eos> <bos>"])[0])


@needs_tokenizers
def test_too_few_pieces(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"more characters than a vocabulary of 5 pieces holds\. Give --bpe \d+"):
        prepare_pairs(texts(tmp_path), tmp_path / "out", PairSettings(bpe=5))
    assert not (tmp_path / "out").exists()


def bad(folder: Path, kind: str) -> tuple[list[Path], str]:
    de, en = write(folder, "t", ["a b", "c", "d e f"])
    if kind == "lines":
        en.write_text("a\nb\n")
        return [de, en], r"t\.de has 3 lines and .*t\.en has 2\. Line n of one"
    if kind == "utf-8":
        en.write_bytes(b"a\nb\xff\nc\n")
        return [de, en], r"t\.en:2: the line is not UTF-8"
    if kind == "absent":
        en.unlink()
        return [de, en], r"t\.en cannot be read: No such file"
    if kind == "folder":
        return [de, folder], r"is a folder\. Name two text files"
    if kind == "one":
        return [de], "1 files were given for the train split"
    if kind == "empty":
        de.write_text("\n\n")
        en.write_text("\na\n")
        return [de, en], "hold no pair of sentences"
    if kind == "long":
        de.write_text("a b c\n" * 3)
        return [de, en], "Every pair of the training files is longer than 1 or empty"
    if kind == "line":
        de.write_text("a " * 600_000 + "\nb\nc\n")
        return [de, en], r"t\.de:1: the line has more than 1,048,576 bytes"
    cut = folder / "cut.gz"
    cut.write_bytes(gzip.compress(os.urandom(5000).hex().encode())[:2000])
    return [cut, en], "the file is truncated"


@pytest.mark.parametrize("kind", ["lines", "utf-8", "absent", "folder", "one", "empty", "long", "line", "cut"])
def test_what_is_refused_leaves_nothing(tmp_path: Path, kind: str) -> None:
    files, problem = bad(tmp_path, kind)
    with pytest.raises(UserError, match=problem):
        prepare_pairs(files, tmp_path / "out", PairSettings(max_length=1))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        prepare_pairs(texts(tmp_path), tmp_path / "out", force=True)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"min_count": 0}, "min_count is 0"),
        ({"bpe": 100, "min_count": 2}, "Leave --vocab-size and --min-count away, or --bpe"),
        ({"shard_mb": 0}, "shard_mb is 0"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        PairSettings(**settings)  # type: ignore[arg-type]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    de, en = map(str, texts(tmp_path))
    out = str(tmp_path / "out")
    assert main(["prepare", "--pairs", de, en, "--out", out, "--test", de, en, "--max-length", "5"]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[:2] for line in shown.splitlines()[1:4]] == [["train", "3"], ["valid", "0"], ["test", "4"]]
    assert "2 pairs with an empty side and 1 too long for training were left out" in shown
    assert f"Next: overnight train gnmt --data {out}" in shown
    assert main(["prepare", "--pairs", de, "--out", str(tmp_path / "x")]) == 2
    assert "1 files were given for the train split. Give two" in capsys.readouterr().err
    assert main(["train", "word-lm", "--data", out]) == 2
    assert "is a corpus of pairs, not of words" in capsys.readouterr().err
