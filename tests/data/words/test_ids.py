"""Files of ids that someone made: as they are, without what begins a line; every line that cannot be is named."""

import gzip
from pathlib import Path

import pytest
from data.words.reading import sentences_of

from overnight.data.words import WordCorpus
from overnight.data.words.preparation import prepare_words
from overnight.data.words.settings import WordSettings
from overnight.errors import UserError


def folder_of(tmp_path: Path, train: str, test: str = "1 1 3 2\r\n") -> Path:
    folder = tmp_path / "ids"
    folder.mkdir()
    (folder / "my.train.ids.gz").write_bytes(gzip.compress(train.encode()))
    (folder / "my.test.ids").write_text(test)
    return folder


def test_ids_stay_as_they_are(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "1 1 5 0 3 2\r\n\r\n1 1 7 2\r\n1 1 2")
    manifest = prepare_words([folder], tmp_path / "out")
    corpus = WordCorpus.open(tmp_path / "out")
    assert corpus.split("train").read(0, 7).tolist() == [5, 0, 3, 2, 7, 2, 2]
    assert [len(sentence) for sentence in sentences_of(tmp_path / "out", "train")] == [4, 2, 1]
    assert corpus.words == ["<unk>", "<bos>", "<eos>", "3", "4", "5", "6", "7"]
    assert corpus.counts.tolist() == [1, 0, 3, 1, 0, 1, 0, 1]
    assert (corpus.unk, corpus.bos, corpus.eos, corpus.fill) == (0, 1, 2, 1)
    assert manifest["counts"]["empty"] == 1
    assert manifest["vocabulary"]["from"] == "ids"


def test_ids_with_their_words(tmp_path: Path) -> None:
    (tmp_path / "v").write_text("UNK\nB\nE\nthe\ncat\n")
    folder = folder_of(tmp_path, "1 1 3 4 2\n")
    settings = WordSettings(vocab_file=str(tmp_path / "v"), unk="UNK")
    prepare_words([folder], tmp_path / "out", settings)
    assert sentences_of(tmp_path / "out", "train") == [["the", "cat", "E"]]


def test_other_ids_for_the_ends(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, "4 1 9\n4 2 9\n", "4 1 9\n")
    settings = WordSettings(unk_id=0, bos_id=4, eos_id=9, vocab_size=20)
    prepare_words([folder], tmp_path / "out", settings)
    corpus = WordCorpus.open(tmp_path / "out")
    assert corpus.split("train").read(0, 4).tolist() == [1, 9, 2, 9]
    assert corpus.vocab_size == 20


GOOD = "1 1 3 2\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("1 1 3 9 2", "the id 9 at place 4 is not below the size of the vocabulary, 9. Give the vocabulary"),
        ("1 1 3 99999999999999999999 2", "is not below the size of the vocabulary"),
        ("1 1 -1 2", "-1 at place 3 is negative, and ids count from 0. Lines are ids"),
        ("1 1 3 -7 2", "-7 at place 4 is negative"),
        ("-1", "-1 at place 1 is negative"),
        ("1 1 three 2", "'three' at place 3 is no id"),
        ("1 1 3.5 2", "'3.5' at place 3 is no id"),
        ("1 1 0_3 2", "'0_3' at place 3 is no id"),
        ("1 1 +3 2", "'+3' at place 3 is no id"),
        ("1 1 - 2", "'-' at place 3 is no id"),
        ("1 1 3", "the line does not end with 2, the end of a sentence"),
        ("1 1", "the line does not end with 2, the end of a sentence"),
        ("1 1 3 2 4 2", "the id 2, which ends sentences, stands inside one"),
        ("1 1 3 1 4 2", "the id 1, which begins sentences, stands inside one"),
        ("\xe9 2", "the line is not UTF-8"),
    ],
)
def test_lines_that_cannot_be_are_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "my.ids"
    path.write_bytes((GOOD * 4 + line + "\n" + GOOD).encode("latin-1"))
    with pytest.raises(UserError) as raised:
        prepare_words([path], tmp_path / "out", WordSettings(vocab_size=9))
    assert str(raised.value).startswith(f"{path}:5: ")
    assert reason in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_vocabulary_that_does_not_match(tmp_path: Path) -> None:
    (tmp_path / "v").write_text("<unk>\nB\nE\nthe\ncat\n")
    path = tmp_path / "my.ids"
    path.write_text(GOOD + "1 1 4 5 2\n")
    with pytest.raises(UserError, match=r"my\.ids:2: the id 5 at place 4 is not below the size of the vocabulary, 5"):
        prepare_words([path], tmp_path / "out", WordSettings(vocab_file=str(tmp_path / "v")))
    (tmp_path / "w").write_text("the\nB\nE\n<unk>\ncat\n")
    with pytest.raises(UserError, match=r"has <unk> in line 4, where its id would be 3; the ids have 0 for unknown"):
        prepare_words([path], tmp_path / "out", WordSettings(vocab_file=str(tmp_path / "w")))
    path.write_text("3 2\n")
    with pytest.raises(UserError, match="The id 7 of --unk-id, --bos-id or --eos-id is not below"):
        prepare_words([path], tmp_path / "out", WordSettings(vocab_size=5, bos_id=7))
