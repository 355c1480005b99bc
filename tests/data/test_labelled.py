"""Labelled sets: every format, every split, every mistake."""

import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from overnight.data.labelled import find_source, labelled_set, read_records
from overnight.errors import UserError

ROWS = [("1", "a good film, really"), ("0", 'a "bad" one'), ("1", "línea\tnueva"), ("0", "")]


def pairs(file: Path, **options: Any) -> list[tuple[str | None, str]]:
    return [(record.label, record.text) for record in read_records(find_source(file), **options)]


def write_csv(file: Path, rows: list[tuple[str, str]] = ROWS) -> Path:
    quoted = ['"' + text.replace('"', '""') + '"' for _, text in rows]
    lines = ["label,sentence", *(f"{label},{text}" for (label, _), text in zip(rows, quoted, strict=True))]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_every_format_gives_the_same_records(tmp_path: Path) -> None:
    files = [write_csv(tmp_path / "a.csv"), tmp_path / "a.csv.gz"]
    files[1].write_bytes(gzip.compress(files[0].read_bytes()))
    records = [{"id": i, "label": int(label), "text": text} for i, (label, text) in enumerate(ROWS)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "a.json").write_text(json.dumps(records))
    for name, kind in (("i", pa.int64()), ("f", pa.float64()), ("d", pa.dictionary(pa.int8(), pa.string()))):
        labels = [float(label) if name != "d" else label for label, _ in ROWS]
        table = pa.table(
            {"text": [text for _, text in ROWS], "label": pa.array(labels, type=pa.float64() if name != "d" else kind)}
        )
        parquet.write_table(
            table.cast(pa.schema([("text", pa.string()), ("label", kind)])), tmp_path / f"{name}.parquet"
        )
    files += [tmp_path / name for name in ("a.jsonl", "a.json", "i.parquet", "f.parquet", "d.parquet")]
    for file in files:
        assert pairs(file) == ROWS, file.name
    (tmp_path / "a.tsv").write_text('text\tstars\nsays "so", he\t5\n', encoding="utf-8")
    assert pairs(tmp_path / "a.tsv") == [("5", 'says "so", he')]


def test_lines_begin_with_their_label_and_keep_their_bytes(tmp_path: Path) -> None:
    file = tmp_path / "reviews.all"
    file.write_bytes(b"1 caf\xe9 noir\r\n\n0\n__label__x  two  words\n")
    found = pairs(file)
    assert found == [("1", "caf\udce9 noir"), ("0", ""), ("__label__x", "two  words")]
    assert found[0][1].encode("utf-8", "surrogateescape") == b"caf\xe9 noir"
    assert [record.text for record in read_records(find_source(file), labelled=False)][2] == "0"


def test_standard_input_is_read_as_it_comes() -> None:
    found = read_records(find_source("-"), labelled=False, stdin=io.BytesIO(b"one\ntwo"))
    assert [(record.text, record.line) for record in found] == [("one", 1), ("two", 2)]


def test_fields_can_be_named_and_are_guessed_only_where_obvious(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"title": "t", "comment": "c", "stars": 3, "kind": true}\n')
    assert pairs(file) == [("3", "c")]
    assert pairs(file, text_field="title", label_field="kind") == [("true", "t")]
    with pytest.raises(UserError, match=r"has no field 'body'.*--text-field one of: title, comment, stars, kind"):
        pairs(file, text_field="body")
    with pytest.raises(UserError, match=r"has no field 'class'.*--label-field"):
        pairs(file, label_field="class")
    file.write_text('{"a": "t", "b": "c", "label": 3}\n')
    with pytest.raises(UserError, match="which of its fields is the text"):
        pairs(file)
    file.write_text('{"a": "t", "b": "c"}\n')
    with pytest.raises(UserError, match="which of its fields is the label"):
        pairs(file)
    assert pairs(file, text_field="a") == [("c", "t")]


MISTAKES = {
    "a.csv": ("label,text\n1,a,b\n", "a.csv:2 has 3 fields, not 2"),
    "b.csv": ("label,text\n ,a\n", "b.csv:2 has no label: its 'label' is empty"),
    "c.csv": ('label,text\n1,"never closed\n', "c.csv:"),
    "a.jsonl": ('{"label": 1, "text": "a"}\n{"text": "b"}\n', "a.jsonl:2 has no label: it has no 'label' (its fields:"),
    "b.jsonl": ('{"label": 1, "text": 5}\n', "b.jsonl:1 has no text"),
    "c.jsonl": ('{"label": 1, "text": "a"\n', "c.jsonl:1: not valid JSON"),
    "d.jsonl": ('["label"]\n', "d.jsonl:1 is no JSON object"),
    "e.jsonl": ('{"label": null, "text": "a"}\n', "e.jsonl:1 has no label"),
    "f.jsonl": ('{"label": NaN, "text": "a"}\n', "f.jsonl:1"),
    "empty.csv": ("", "empty.csv holds no examples"),
    "head.csv": ("label,text\n", "head.csv holds no examples"),
    "one.csv": ("label,text\n1,a\n1,b\n", "All 2 examples of"),
    "many.csv": ("label,text\n" + "".join(f"{i},a\n" for i in range(30)), "30 different labels in 30 examples"),
    "bad.parquet": ("PAR", "bad.parquet: "),
    "bad.csv.gz": ("label,text\n", "bad.csv.gz: the gzip stream is damaged"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_that_names_it(tmp_path: Path, name: str) -> None:
    text, said = MISTAKES[name]
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as caught:
        labelled_set(tmp_path / name)
    assert said in str(caught.value)
    assert caught.value.remedy


def test_one_file_is_split_by_class_and_seed(tmp_path: Path) -> None:
    rows = [(str(int(i % 10 == 0)), f"text {i}") for i in range(100)]
    file = write_csv(tmp_path / "set.csv", rows)
    found = labelled_set(file)
    assert (found.name, found.classes, found.dev) == ("set", ("0", "1"), None)
    assert sorted(found.test.labels) == ["0"] * 18 + ["1"] * 2
    assert sorted(found.train.texts + found.test.texts) == sorted(text for _, text in rows)
    assert labelled_set(file).test == found.test
    assert labelled_set(file, seed=1).test != found.test


def test_folders_and_named_files_are_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "sets" / "mine"
    folder.mkdir(parents=True)
    for name in ("train_binary.csv", "validation.csv", "mine-test.csv"):
        write_csv(folder / name, [*ROWS, ("1", name)])
    (folder / "reviews.jsonl").write_text("not a split")
    found = labelled_set(folder)
    assert found.dev is not None
    assert [part.texts[-1] for part in (found.train, found.dev, found.test)] == [
        "train_binary.csv", "validation.csv", "mine-test.csv",
    ]  # fmt: skip
    monkeypatch.setenv("OVERNIGHT_DATA", str(tmp_path / "sets"))
    assert labelled_set("mine").train == found.train
    files = labelled_set(folder / "train_binary.csv", dev=folder / "validation.csv", test=folder / "mine-test.csv")
    assert (files.dev, files.test) == (found.dev, found.test)
    write_csv(folder / "validation.csv", [("2", "unseen")])
    with pytest.raises(UserError, match=r"validation\.csv has labels that .*train_binary\.csv has not: 2"):
        labelled_set(folder)
    with pytest.raises(UserError, match="is a folder, so --dev"):
        labelled_set(folder, dev=folder / "validation.csv")
    (folder / "train-more.csv").write_text("")
    with pytest.raises(UserError, match=r"several files for train: train-more\.csv, train_binary\.csv"):
        labelled_set(folder)
    with pytest.raises(UserError, match=r"There is no file or folder nowhere.*OVERNIGHT_DATA"):
        labelled_set("nowhere")


@pytest.mark.skipif("OVERNIGHT_DATA" not in os.environ, reason="OVERNIGHT_DATA names no folder of labelled sets")
def test_the_sets_of_the_papers_have_their_sizes() -> None:
    sizes = {}
    for name in ("sst2", "imdb", "customer_reviews", "mpqa"):
        found = labelled_set(name)
        assert found.classes == ("0", "1")
        sizes[name] = (len(found.train), len(found.dev or []), len(found.test))
    assert sizes["sst2"] == (6920, 872, 1821)
    assert sizes["imdb"] == (25000, 0, 25000)
    assert [sum(sizes[name]) for name in ("customer_reviews", "mpqa")] == [3775, 10606]
