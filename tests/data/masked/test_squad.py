"""SQuAD's files, and windows of paragraphs: what is read, that no answer is lost, and what is refused."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.questions import questions, write_questions
from oracles.reviews import write_tokenizer

from overnight.data.masked.spans import SpanBatches, windows_of
from overnight.data.masked.squad import Question, digest_of, read_squad, squad_files
from overnight.data.masked.wordpiece import WordPiece, read_tokenizer
from overnight.errors import UserError

SIZES = {"length": 24, "stride": 8, "question_length": 5}


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> WordPiece:
    pytest.importorskip("tokenizers", reason="needs the extra bert")
    return read_tokenizer(write_tokenizer(tmp_path_factory.mktemp("squad") / "tokenizer.json"))


def test_files(tmp_path: Path) -> None:
    folder = write_questions(tmp_path, train=7, dev=4, unanswered=3)
    files = squad_files(folder)
    assert {split: path.name for split, path in files.items()} == {
        "train": "train-v1.1.json",
        "dev": "dev-v1.1.json",
    }
    found = read_squad(files["train"])
    assert len(found) == 7
    assert [bool(one.answers) for one in found] == [True, True, True, False, True, True, False]
    for one in found:
        assert all(one.context[start:].startswith(text) for text, start in one.answers)
    (tmp_path / "train-v1.1.json.gz").write_bytes(gzip.compress((tmp_path / "train-v1.1.json").read_bytes()))
    assert read_squad(tmp_path / "train-v1.1.json.gz") == found
    with pytest.raises(UserError, match=r"several files for train: train-v1\.1\.json, train-v1\.1\.json\.gz"):
        squad_files(folder)
    one = squad_files(tmp_path / "train-v1.1.json", dev=tmp_path / "dev-v1.1.json")
    assert one["dev"] == tmp_path / "dev-v1.1.json"
    assert digest_of(found) != digest_of(found[:-1])


def spoilt(change: Any) -> Any:
    root = questions(3, 1)
    change(root["data"][0]["paragraphs"][0])
    return root


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is no JSON"),
        ([], "is no file of SQuAD: the file has no list 'data'"),
        ({"data": [{"title": "a"}]}, r"data\[0\] has no list 'paragraphs'"),
        ({"data": []}, "holds no question"),
        (spoilt(lambda one: one.pop("context")), r"data\[0\]\.paragraphs\[0\] has no text 'context'"),
        (spoilt(lambda one: one["qas"][1].pop("id")), r"paragraphs\[0\]\.qas\[1\] has no text 'id'"),
        (spoilt(lambda one: one["qas"][0].update(question=3)), "question '1-0-0' has no text 'question'"),
        (spoilt(lambda one: one["qas"][0].update(answers=[])), "question '1-0-0' has no answer"),
        (
            spoilt(lambda one: one["qas"][0]["answers"][0].update(answer_start=2)),
            "'1-0-0': its answer 'Ending' does not stand at character 2",
        ),
        (
            spoilt(lambda one: one["qas"][0]["answers"][0].update(answer_start=-1)),
            "does not stand at character -1",
        ),
        (spoilt(lambda one: one["qas"][0]["answers"][0].pop("answer_start")), "answer without an answer_start"),
        (spoilt(lambda one: one["qas"][1].update(id="1-0-0")), "two questions have the id '1-0-0'"),
    ],
)
def test_damaged_files(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "train.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=said):
        read_squad(path)


def test_absent_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no file or folder"):
        squad_files(tmp_path / "none")
    with pytest.raises(UserError, match=r"has no file train….json"):
        squad_files(tmp_path)
    path = tmp_path / "train.json"
    path.write_text("{}")
    with pytest.raises(UserError, match=r"has no file dev….json"):
        squad_files(tmp_path)
    with pytest.raises(UserError, match="one file, and nothing is held out"):
        squad_files(path)
    with pytest.raises(UserError, match="is a folder, so --dev has no meaning"):
        squad_files(tmp_path, dev=path)
    with pytest.raises(UserError, match="cannot be read"):
        read_squad(tmp_path / "none.json")
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(b"{}" * 99)[:-9])
    with pytest.raises(UserError, match="is no JSON"):
        read_squad(tmp_path / "cut.json.gz")


def test_windows_cover_the_paragraph_and_no_answer_is_lost(tmp_path: Path, pieces: WordPiece) -> None:
    found = read_squad(squad_files(write_questions(tmp_path, train=60))["train"])
    windows = windows_of(found, pieces, **SIZES)
    assert len(windows) > len(found)
    assert max(len(one.ids) for one in windows) == 24
    for number, question in enumerate(found):
        own = [one for one in windows if one.question == number]
        ids, offsets = pieces.encode_with_offsets([question.context])[0]
        seen = set()
        for one in own:
            assert one.ids[0] == pieces.cls
            assert one.ids[one.begin - 1] == one.ids[-1] == pieces.sep
            start = offsets.index(tuple(one.offsets_C2[0].tolist()))
            stop = start + len(one.offsets_C2)
            assert one.ids[one.begin : -1].tolist() == ids[start:stop]
            seen.update(range(start, stop))
            if one.span != (0, 0):
                first, last = (place - one.begin for place in one.span)
                text, begin = question.answers[0]
                assert (one.offsets_C2[first, 0], one.offsets_C2[last, 1]) == (begin, begin + len(text))
        assert seen == set(range(len(ids)))
        assert any(one.span != (0, 0) for one in own)  # shorter than what windows share


def test_places_are_of_characters_as_they_were(pieces: WordPiece) -> None:
    """Case and accents are folded for the model, and not in the answer."""
    context = "Ünknown 𝒙 Fïlms. scene"
    question = Question("a", "plot", context, (("Fïlms", context.index("F")),))
    window = windows_of([question], pieces, **SIZES)[0]
    first, last = (place - window.begin for place in window.span)
    assert context[window.offsets_C2[first, 0] : window.offsets_C2[last, 1]] == "Fïlms"
    assert pieces.decode(window.ids[window.span[0] : window.span[1] + 1].tolist()) == "films"
    half = Question("b", "plot \udc80", "\ud800 film", (("film", 2),))
    assert windows_of([half], pieces, **SIZES)[0].span != (0, 0)
    empty = windows_of([Question("c", "plot", " ", ())], pieces, **SIZES)
    assert [len(one.ids) for one in empty] == [4]
    long = windows_of([Question("d", "plot " * 50, "film", ())], pieces, **SIZES)
    assert long[0].begin == 1 + SIZES["question_length"] + 1


def test_a_batch_is_a_function_of_seed_step_and_place(tmp_path: Path, pieces: WordPiece) -> None:
    found = read_squad(squad_files(write_questions(tmp_path, train=20))["train"])
    made = SpanBatches(found, pieces, 6, seed=2, **SIZES)
    whole, part = made.at(7), SpanBatches(found, pieces, 6, seed=2, **SIZES).at(7, 2, 3)
    width = part.input_BT.shape[1]
    assert torch.equal(part.input_BT, whole.input_BT[2:5, :width])
    assert torch.equal(part.span_B2, whole.span_B2[2:5])
    assert not torch.equal(whole.span_B2, SpanBatches(found, pieces, 6, seed=3, **SIZES).at(7).span_B2)
    seen: list[int] = []
    made.take = lambda places: seen.extend(places)  # type: ignore[assignment, method-assign, return-value]
    for step in range(len(made)):
        made.at(step)
    assert all(sorted(seen[len(made) * epoch : len(made) * (epoch + 1)]) == list(range(len(made))) for epoch in (0, 5))
    assert made.steps_per_epoch == len(made) / 6
    for ids, types, mask in zip(whole.input_BT, whole.type_BT, whole.mask_BT, strict=True):
        second = int((ids == pieces.sep).nonzero()[0]) + 1
        assert not types[:second].any()
        assert bool(types[second : int(mask.sum())].all())
        assert bool((ids[int(mask.sum()) :] == pieces.pad).all())


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"length": 8}, "A window of 8 word pieces has no room beside a question of 5"),
        ({"question_length": 0}, "has no room beside a question of 0"),
        ({"stride": 17}, "A stride of 17 leaves out what is between windows of 16 word pieces. Take 1 to 16"),
        ({"stride": 0}, "A stride of 0"),
        ({"lanes": 0}, "A batch of 0 windows"),
    ],
)
def test_lengths_that_cannot_be(pieces: WordPiece, sizes: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        SpanBatches([Question("a", "plot", "film", ())], pieces, **{"lanes": 2, **SIZES, **sizes})
