"""What a user can get wrong: said in a sentence, and nothing half-written is left."""

from pathlib import Path

import pytest
from data.words.reading import sentences_of

from overnight.data.words.preparation import prepare_words
from overnight.data.words.settings import WordSettings
from overnight.errors import UserError


def refuse(out: Path, *sources: Path, **settings: object) -> str:
    """The error of a preparation that leaves nothing."""
    with pytest.raises(UserError) as raised:
        prepare_words(sources, out, WordSettings(**{"split": (1, 0, 0), **settings}))  # type: ignore[arg-type]
    assert not out.exists()
    return str(raised.value)


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"good line\nalso good\ncaf\xe9 noir\nlast line\n")
    said = refuse(tmp_path / "out", path)
    assert said.startswith(f"{path}:3: the line is not UTF-8 (… caf\\xe9 noir …).")
    assert "--on-error skip" in said
    from overnight.data.ingest import PrepareSettings

    skipping = WordSettings(split=(1, 0, 0), text=PrepareSettings(document="line", on_error="skip"))
    manifest = prepare_words([path], tmp_path / "out", skipping)
    assert manifest["counts"]["skipped"] == 1
    assert manifest["errors"][0]["line"] == 3
    found = sentences_of(tmp_path / "out", "train")
    assert found == [["good", "line", "<eos>"], ["also", "good", "<eos>"], ["last", "line", "<eos>"]]


def test_a_text_that_marks_its_own_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a b\nc <eos>\n")
    said = refuse(tmp_path / "out", path)
    assert said.startswith(f"{path}:2: the text holds the word <eos>, which stands for the end of a sentence.")
    (tmp_path / "v").write_text("<unk>\n<eos>\na\n")
    assert f"{path}:2: " in refuse(tmp_path / "out", path, vocab_file=str(tmp_path / "v"))
    # part of a word is no mark
    path.write_text("a <eos>b\n")
    prepare_words([path], tmp_path / "out", WordSettings(split=(1, 0, 0)))


def test_no_words(tmp_path: Path) -> None:
    empty, blank, good = tmp_path / "a.txt", tmp_path / "b.txt", tmp_path / "c.txt"
    empty.write_text("")
    blank.write_text("\n \n\t\r\n")
    good.write_text("a b\n")
    for path in (empty, blank):
        assert refuse(tmp_path / "out", path) == "The training split holds no words. Give text with at least one word."
    with pytest.raises(UserError, match="The training split holds no words"):
        prepare_words([blank], tmp_path / "out", valid=[good])
    (tmp_path / "v").write_text("<unk>\n<eos>\na\n")
    assert "The training split holds no words" in refuse(tmp_path / "out", blank, vocab_file=str(tmp_path / "v"))
    for path in (empty, blank):
        with pytest.raises(UserError, match=r"split valid hold no words\. Give it text .* or no --valid"):
            prepare_words([good], tmp_path / "out", valid=[path])
        assert not (tmp_path / "out").exists()
    told: list[str] = []
    prepare_words([good], tmp_path / "out", WordSettings(split=(98, 1, 1)), notify=told.append)
    assert told[0] == "No sentence fell into valid and test; --valid FILE and --test FILE name held-out files."


def test_sources_that_cannot_be(tmp_path: Path) -> None:
    assert "does not exist" in refuse(tmp_path / "out", tmp_path / "none.txt")
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(UserError, match="is named for two splits"):
        prepare_words([tmp_path / "a.txt"], tmp_path / "out", valid=[tmp_path / "a.txt"], test=[tmp_path / "a.txt"])
    with pytest.raises(UserError, match="Standard input can be read only once"):
        prepare_words(["-"], tmp_path / "out")
    with pytest.raises(UserError, match="No source was given"):
        prepare_words([], tmp_path / "out")
    (tmp_path / "long.txt").write_text("a\n" + "b " * 100 + "\nc\n")
    from overnight.data.ingest import PrepareSettings

    text = PrepareSettings(document="line", max_document_mb=0.0001)
    assert "long.txt:2: the record is longer than 0.0001 MB" in refuse(
        tmp_path / "out", tmp_path / "long.txt", text=text
    )


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"vocab_file": "v", "vocab_size": 9}, "A vocabulary file is used as it is"),
        ({"vocab_file": "v", "min_count": 2}, "A vocabulary file is used as it is"),
        ({"vocab_size": 1}, "vocab_size is 1. Give at least 2."),
        ({"min_count": 0}, "min_count is 0. Give at least 1."),
        ({"unk": "two words"}, "unk is 'two words', not one word."),
        ({"eos": ""}, "eos is '', not one word."),
        ({"unk": "x", "eos": "x"}, "unk and eos are both 'x'."),
        ({"ids": True, "min_count": 2}, "cannot be cut by --min-count"),
        ({"ids": True, "bos_id": 2}, "unk_id, bos_id and eos_id are 0, 2 and 2. Give three different ids."),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], problem: str) -> None:
    with pytest.raises(UserError) as raised:
        WordSettings(**settings)  # type: ignore[arg-type]
    assert problem in str(raised.value)


def test_a_vocabulary_size_without_room(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a b\n")
    assert "2 words has no room beside <unk> and <eos>" in refuse(tmp_path / "out", tmp_path / "a.txt", vocab_size=2)
