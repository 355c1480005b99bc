"""Vocabularies: ids by falling frequency and then by bytes; files as they are; counts that do not depend on memory."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.data.words.counting import WordCounter
from overnight.data.words.vocabulary import Vocabulary, build_vocabulary, read_vocabulary
from overnight.errors import UserError

COUNTS = [(b"the", 9), (b"cat", 4), ("é".encode(), 4), (b"a", 4), (b"mat", 1), (b"<unk>", 2)]


def test_ids_fall_in_frequency_and_then_rise_in_bytes() -> None:
    built = build_vocabulary(COUNTS, 4)
    assert built.words == [b"the", b"<eos>", b"a", b"cat", "é".encode(), b"<unk>", b"mat"]
    assert (built.unk, built.eos, built.bos) == (5, 1, None)


def test_size_counts_unk_and_eos_and_what_is_cut_counts_as_unknown() -> None:
    built = build_vocabulary(COUNTS, 4, size=4)
    # cat, é and mat are gone: 4 + 4 + 1 of them and 2 that were unknown already make 11
    assert built.words == [b"<unk>", b"the", b"<eos>", b"a"]
    assert build_vocabulary(COUNTS, 4, min_count=4).words == [b"the", b"<eos>", b"a", b"cat", "é".encode(), b"<unk>"]
    assert build_vocabulary(COUNTS, 4, size=100).words == build_vocabulary(COUNTS, 4).words
    assert build_vocabulary(COUNTS, 4, size=3, eos=None).words == [b"<unk>", b"the", b"a"]


def test_words_that_are_not_there_are_unknown() -> None:
    vocabulary = Vocabulary([b"a", b"<unk>", "é".encode()], unk=1)
    assert vocabulary.encode("é a\nb\ta").tolist() == [2, 0, 1, 0]
    assert vocabulary.encode("").tolist() == []
    assert vocabulary.decode([2, 1]) == ["é", "<unk>"]
    assert vocabulary.digest != Vocabulary([b"a", "é".encode(), b"<unk>"], unk=2).digest


@given(st.lists(st.binary(min_size=1, max_size=2).filter(lambda w: w.split() == [w]), max_size=200), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_counts_do_not_depend_on_how_many_words_fit_into_memory(
    tmp_path_factory: pytest.TempPathFactory, words: list[bytes], most: int
) -> None:
    counter = WordCounter(tmp_path_factory.mktemp("runs"), most)
    for start in range(0, len(words), 7):
        counter.add(words[start : start + 7])
    found = list(counter.items())
    assert dict(found) == Counter(words)
    assert len(found) == len(set(words))


@pytest.mark.parametrize(
    "text", ["<S>\n</S>\n<UNK>\nthe\n", "<S> 5\n</S> 0\n<UNK>\t3\nthe 9", "\ufeff<S>\n</S>\n<UNK>\nthe\n"]
)
def test_a_file_is_taken_as_it_is(tmp_path: Path, text: str) -> None:
    (tmp_path / "vocab").write_text(text)
    found = read_vocabulary(tmp_path / "vocab")
    assert found.words == [b"<S>", b"</S>", b"<UNK>", b"the"]
    assert (found.unk, found.eos) == (2, 0)
    assert read_vocabulary(tmp_path / "vocab", eos=b"</S>").eos == 1
    assert read_vocabulary(tmp_path / "vocab", ends=False).eos is None
    assert read_vocabulary(tmp_path / "vocab", unk=b"the").unk == 3


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"<unk>\n<eos>\na\na\n", ":4: the word a stands there already, in line 3."),
        (b"<unk> 1\n<eos> 2\na 1\na 7\n", ":4: the word a stands there already, in line 3."),
        (b"<unk>\n\n<eos>\n", ":2: the line is empty."),
        (
            b"<unk>\n<eos>\nfour words a line\n",
            ":3: the line is not a word, or a word and its count: four words a line.",
        ),
        (b"<unk>\n<eos>\nword many\n", ":3: the line is not a word, or a word and its count: word many."),
        (b"<unk>\n<eos>\na 3\n", ":3: some lines have a count and some have none."),
        (b"<unk>\n<eos>\n\xe9\n", ":3: the line is not UTF-8."),
        (b"<eos>\na\n", "has no word for unknown words (<unk>, <UNK>). Name another with --unk WORD, or add one."),
        (b"<unk>\na\n", "has no word for the end of a sentence (<eos>, </s>, <S>, </S>)."),
    ],
)
def test_what_a_file_cannot_be(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "vocab"
    path.write_bytes(content)
    with pytest.raises(UserError) as raised:
        read_vocabulary(path)
    assert str(path) in str(raised.value)
    assert problem in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_vocabulary(tmp_path / "none")


def test_vocabularies_that_cannot_be() -> None:
    with pytest.raises(UserError, match=r"2 words has no room beside <unk> and <eos>. Give at least 3"):
        build_vocabulary(COUNTS, 4, size=2)
    with pytest.raises(UserError, match="no words"):
        build_vocabulary([], 0)
    with pytest.raises(UserError, match="No word stands in the training split 10 times"):
        build_vocabulary(COUNTS, 4, min_count=10)
