"""Text → word pieces and sentences: what is written, that it is the same again, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from oracles.reviews import documents, write_reviews, write_tokenizer

from overnight.cli import main
from overnight.data.ingest import PrepareSettings
from overnight.data.masked import MaskedCorpus
from overnight.data.masked.preparation import prepare_masked
from overnight.data.masked.sentences import split_lines, split_sentences
from overnight.data.masked.settings import MaskedSettings
from overnight.data.masked.wordpiece import learn, read_tokenizer
from overnight.errors import UserError

WHOLE = PrepareSettings(framing="none", split=(1, 0, 0))


def quiet(said: str) -> None:
    pass


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("It was good. I liked it!  Did you? 3 stars.", ["It was good.", "I liked it!", "Did you?", "3 stars."]),
        ("It cost $3.50 at www.example.com, i.e. nothing.", ["It cost $3.50 at www.example.com, i.e. nothing."]),
        ("J. R. Smith met Dr. Who. He left.", ["J. R. Smith met Dr. Who.", "He left."]),
        ('He said "Stop!" Then (so they say.) She went…', ['He said "Stop!"', "Then (so they say.)", "She went…"]),
        ("one\n\ntwo", ["one", "two"]),
        ("好。很好！", ["好。", "很好！"]),
        (" \n ", []),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences
    assert " ".join(split_lines(text)).split() == text.split()


def test_a_corpus_holds_its_text(tmp_path: Path) -> None:
    corpus = MaskedCorpus(write_reviews(tmp_path / "corpus", train=20))
    corpus.verify()
    stream, pieces = corpus.split("train"), corpus.pieces
    assert (stream.documents, corpus.vocab_size, corpus.with_pairs) == (20, 15, 20)
    for text, start, end in zip(documents(20, 1), stream.edges, stream.edges[1:], strict=False):
        ids = stream.read(int(start), int(end - start))
        assert ids[-1] == pieces.sep
        cut = [pieces.decode(part[part != pieces.sep].tolist()) for part in np.split(ids, np.flatnonzero(ids == 3) + 1)]
        assert [one for one in cut if one] == [one.lower() for one in split_sentences(text)]


def test_learning_is_deterministic_and_marks_in_a_text_are_its_own() -> None:
    texts = documents(40, 3)
    one, two = (learn(lambda: iter(texts), 60) for _ in range(2))
    assert one.words == two.words
    assert one.words[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert one.decode(one.encode(["Films films"])[0]) == "films films"
    found = one.encode(["film [SEP] film"])[0]
    assert one.sep not in found
    with pytest.raises(UserError, match="more characters than a vocabulary of 16"):
        learn(lambda: iter(["abcdefghijklmnopqrstuvwxyz"]), 16)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "a.txt"
    text.write_text("\n\n".join(documents(60, 5)))
    command = ["prepare", str(text), "--bert", "--vocab-size", "50", "--split", "8,1,1", "--out", str(tmp_path / "c")]
    assert main(command) == 0
    assert "Next: overnight train bert --data" in capsys.readouterr().out
    manifest = json.loads((tmp_path / "c" / "manifest.json").read_text())
    assert sum(split["documents"] for split in manifest["splits"].values()) == 60
    assert manifest["vocabulary"]["size"] <= 50
    assert not (tmp_path / "c" / ".partial").exists()
    assert main(command) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert main([*command, "--cased"]) == 2
    assert "already holds a corpus made otherwise (lowercase)" in capsys.readouterr().err
    assert main([*command, "--part", "1/2"]) == 2


def test_what_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "a.txt"
    text.write_text("A film. A plot.")
    said: list[str] = []
    lines = MaskedSettings(WHOLE, vocab_size=40, sentences="line")
    prepare_masked([text], tmp_path / "lines", lines, notify=said.append)
    assert "No document has two sentences" in said[-2]
    for name, content in (("none.json", "{"), ("cut.json", '{"version": "1.0"}')):
        (tmp_path / name).write_text(content)
        with pytest.raises(UserError, match="is no tokenizer"):
            read_tokenizer(tmp_path / name)
    with pytest.raises(UserError, match="cannot be read"):
        read_tokenizer(tmp_path / "absent.json")
    with pytest.raises(UserError, match=r"vocab_size is 3\."):
        MaskedSettings(vocab_size=3)
    empty = tmp_path / "empty.txt"
    empty.write_text("\n")
    with pytest.raises(UserError):
        prepare_masked([empty], tmp_path / "empty", MaskedSettings(WHOLE, vocab_size=40), notify=quiet)
    assert not (tmp_path / "empty").exists()
    corpus = write_reviews(tmp_path / "corpus", train=5)
    write_tokenizer(corpus / "tokenizer.json", ("film", "."))
    with pytest.raises(UserError, match=r"tokenizer\.json was altered"):
        MaskedCorpus(corpus).verify()
