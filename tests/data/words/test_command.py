"""`overnight prepare --words`."""

from pathlib import Path

import pytest

from overnight.cli import main
from overnight.data.words import WordCorpus


def test_a_corpus_and_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text("a b a\n\nb c\n")
    (tmp_path / "b.txt").write_text("a d\n")
    out = str(tmp_path / "out")
    argv = ["prepare", str(tmp_path / "a.txt"), "--words", "--out", out, "--test", str(tmp_path / "b.txt")]
    assert main([*argv, "--vocab-size", "4"]) == 0
    said = capsys.readouterr()
    assert [line.split() for line in said.out.splitlines()[:4]] == [
        ["sentences", "words", "unknown", "shards"],
        ["train", "2", "7", "14.29%", "1"],
        ["valid", "0", "0", "0"],
        ["test", "1", "3", "33.33%", "1"],
    ]
    assert "4 words in the vocabulary; one of them ends each sentence and is counted; 1 empty lines" in said.out
    assert WordCorpus.open(out).words == ["<eos>", "a", "b", "<unk>"]
    assert main([*argv, "--vocab-size", "4"]) == 0
    assert "is already complete; nothing to do." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ([], "No folder for the corpus was given. Add --out DIR."),
        (["--out", "x"], "No source was given."),
        (["a.txt", "--out", "x"], "a.txt does not exist."),
        (["a.txt", "--out", "x", "--split", "1,2"], "--split '1,2' is not three numbers."),
        (["a.txt", "--out", "x", "--vocab", "none.txt"], "The vocabulary file none.txt cannot be read"),
    ],
)
def test_mistakes(
    argv: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if "--vocab" in argv:
        (tmp_path / "a.txt").write_text("a\n")
    assert main(["prepare", "--words", *argv]) == 2
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
