"""Every format gives the same documents, compressed or not."""

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from ingest.checks import all_documents, digest_of, documents_of, write_jsonl
from pyarrow import parquet

from overnight.data.ingest import PrepareSettings, prepare
from overnight.errors import UserError

TEXTS = [
    "plain",
    'two\nlines, a comma and a "quote"',
    "naïve café — 東京 🎬",
    " spaces kept \t",
    "NULL",
    "123",
    "a\x00b\x1f",
    "x" * 3000,
]
SETTINGS = PrepareSettings(split=(1, 0, 0), framing="none", text_field="text")


def encode(kind: str) -> bytes:
    rows = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(rows)).encode()
    if kind == "json":
        return json.dumps(rows, indent=2, ensure_ascii=False).encode()
    if kind == "csv":
        quoted = ['"{}"'.format(text.replace('"', '""')) for text in TEXTS]
        return "".join(f"{i},{text}\r\n" for i, text in enumerate(["text", *quoted])).replace("0,", "id,", 1).encode()
    buffer = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), buffer, row_group_size=3)
    return buffer.getvalue()


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
def test_records(tmp_path: Path, kind: str, compression: str) -> None:
    data = encode(kind)
    if compression == ".gz":
        # Two members, as of files joined with cat.
        data = gzip.compress(data[:100]) + gzip.compress(data[100:])
    elif compression == ".zst":
        data = zstandard.compress(data[:100]) + zstandard.compress(data[100:])
    source = tmp_path / f"data.{kind}{compression}"
    source.write_bytes(data)
    manifest = prepare([source], tmp_path / "out", SETTINGS)
    assert documents_of(tmp_path / "out")["train"] == [text.encode() for text in TEXTS]
    assert manifest["sources"] == [{"path": str(source), "bytes": len(data), "documents": len(TEXTS)}]
    assert manifest["counts"]["invalid_utf8"] == 0


def test_tsv_takes_quotes_as_they_are_unless_told(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('id\ttext\n1\t"Good" he said\n2\t"whole"\n')
    prepare([tmp_path / "a.tsv"], tmp_path / "plain", SETTINGS)
    assert all_documents(tmp_path / "plain") == [b'"Good" he said', b'"whole"']
    quoted = PrepareSettings(split=(1, 0, 0), framing="none", text_field="text", quoting="double")
    prepare([tmp_path / "a.tsv"], tmp_path / "quoted", quoted)
    assert all_documents(tmp_path / "quoted")[1] == b"whole"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("file", [b"one\r\ntwo\n\n \nthree\nfour"]),
        ("line", [b"one", b"two", b" ", b"three", b"four"]),
        ("blank-line", [b"one\r\ntwo", b"three\nfour"]),
    ],
)
def test_text_documents(tmp_path: Path, document: str, expected: list[bytes]) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\n\n \nthree\nfour")
    settings = PrepareSettings(document=document, split=(1, 0, 0), framing="none")  # type: ignore[arg-type]
    prepare([tmp_path / "a.txt"], tmp_path / "out", settings)
    assert all_documents(tmp_path / "out") == expected


def test_a_text_file_alone_is_cut_into_blocks(tmp_path: Path) -> None:
    said: list[str] = []
    settings = PrepareSettings(split=(1, 0, 0), framing="none")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.txt").write_text("one\n\ntwo\n")
    for number, sources in enumerate(([tmp_path / "in" / "a.txt"], [tmp_path / "in"], [f"{tmp_path}/in/*"])):
        manifest = prepare(sources, tmp_path / f"{number}", settings, notify=said.append)
        assert all_documents(tmp_path / f"{number}") == [b"one", b"two"]
        assert manifest["settings"]["document"] == "blank-line"
        assert said.pop() == "One text file: each block between blank lines is a document (--document says otherwise)."
    (tmp_path / "in" / "b.txt").write_text("three\n\nfour\n")
    for number, sources in enumerate(
        ([tmp_path / "in"], [f"{tmp_path}/in/*.txt"], sorted((tmp_path / "in").iterdir()))
    ):
        manifest = prepare(sources, tmp_path / f"more{number}", settings, format="txt", notify=said.append)
        assert all_documents(tmp_path / f"more{number}") == [b"one\n\ntwo\n", b"three\n\nfour\n"]
        assert manifest["settings"]["document"] == "file"
    assert said == []


def test_bytes_that_are_not_utf8_are_kept_and_counted(tmp_path: Path) -> None:
    latin = "café".encode("latin-1")
    (tmp_path / "a.txt").write_bytes(latin)
    (tmp_path / "b.csv").write_bytes(b"text,n\n" + latin + b",1\nfine,2\n")
    (tmp_path / "c.jsonl").write_bytes(b'{"text": "' + latin + b'"}\n{"text": "\\ud83c\\udfac \\udce9 \\ud800"}\n')
    parquet.write_table(pa.table({"text": [latin, b"fine"]}), tmp_path / "d.parquet")
    (tmp_path / "e.json").write_bytes(b'[{"text": "' + latin + b'"}]')
    manifest = prepare([tmp_path], tmp_path / "out", SETTINGS)
    lone = "🎬 ".encode() + b"\xe9 \xed\xa0\x80"
    assert all_documents(tmp_path / "out") == [latin, latin, b"fine", latin, lone, latin, b"fine", latin]
    assert manifest["counts"]["invalid_utf8"] == 6


def test_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n\r\n{"text": "two"}\r\n')
    (tmp_path / "b.json").write_bytes(b'\xef\xbb\xbf[{"text": "three"}]\r\n')
    (tmp_path / "c.csv").write_bytes(b"\xef\xbb\xbftext,n\r\nfour,1\r\n")
    prepare([tmp_path], tmp_path / "out", SETTINGS)
    assert all_documents(tmp_path / "out") == [b"one", b"two", b"three", b"four"]


def test_json_may_hold_one_object_or_several_in_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n "text": "one"\n}\n')
    (tmp_path / "b.json").write_text('{"text": "two"} {"text": "three"}\n{"text": "four"}')
    (tmp_path / "c.json").write_text("[]")
    prepare([tmp_path], tmp_path / "out", SETTINGS)
    assert all_documents(tmp_path / "out") == [b"one", b"two", b"three", b"four"]


@pytest.mark.usefixtures("small_pieces")
def test_json_lines_in_a_file_named_json(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(100)]
    lines = write_jsonl(tmp_path / "lines", texts).read_bytes()
    (tmp_path / "a.json").write_bytes(b"\n" + lines + b"bad\n" + lines)
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(lines))
    settings = PrepareSettings(split=(1, 0, 0), framing="none", on_error="skip")
    manifest = prepare([tmp_path / "a.json", tmp_path / "b.json.gz"], tmp_path / "out", settings, workers=2)
    assert all_documents(tmp_path / "out") == [t.encode() for t in texts] * 3
    assert [e["line"] for e in manifest["errors"]] == [102]


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "csv", "json", "parquet", "txt"])
def test_standard_input(tmp_path: Path, kind: str) -> None:
    data = b"\n".join(text.encode() for text in TEXTS) if kind == "txt" else encode(kind.removesuffix(".gz"))
    if kind.endswith(".gz"):
        data = gzip.compress(data)
    settings = PrepareSettings(split=(1, 0, 0), framing="none", text_field="text" if kind == "parquet" else None)
    manifest = prepare(["-"], tmp_path / "out", settings, format=kind, stdin=io.BytesIO(data))
    expected = [data] if kind == "txt" else [text.encode() for text in TEXTS]
    assert all_documents(tmp_path / "out") == expected
    assert manifest["sources"] == [{"path": "-", "bytes": len(data), "documents": len(expected)}]


def test_standard_input_needs_a_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--format"):
        prepare(["-"], tmp_path / "out", stdin=io.BytesIO(b"x"))
    with pytest.raises(UserError, match="'pdf' is not known"):
        prepare(["-"], tmp_path / "out", stdin=io.BytesIO(b"x"), format="pdf")


def test_folders_are_read_whole_in_order_and_globs_sorted(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "deep/z.txt", "deep/er/y.txt", "skipped.pdf", ".hidden.txt", ".git/x.txt"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    settings = PrepareSettings(split=(1, 0, 0), framing="none")
    prepare([tmp_path / "in"], tmp_path / "one", settings)
    assert all_documents(tmp_path / "one") == [b"a.txt", b"b.txt", b"deep/z.txt", b"deep/er/y.txt"]
    prepare([f"{tmp_path}/in/**/*.txt"], tmp_path / "two", settings)
    assert all_documents(tmp_path / "two") == [b"a.txt", b"b.txt", b"deep/er/y.txt", b"deep/z.txt"]
    # Named twice, read once; the order is that of the arguments.
    prepare([tmp_path / "in" / "b.txt", tmp_path / "in"], tmp_path / "three", settings)
    assert all_documents(tmp_path / "three")[:2] == [b"b.txt", b"a.txt"]
    assert len(all_documents(tmp_path / "three")) == 4


def test_a_format_given_by_name_reads_files_of_any_name(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one.py").write_text("print()")
    (tmp_path / "in" / "two.log.gz").write_bytes(gzip.compress(b"line"))
    prepare([tmp_path / "in"], tmp_path / "out", PrepareSettings(split=(1, 0, 0), framing="none"), format="txt")
    assert all_documents(tmp_path / "out") == [b"print()", b"line"]


def test_the_corpus_itself_is_never_a_source(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"text": "one"}')
    prepare([tmp_path], tmp_path / "out", SETTINGS)
    first = digest_of(tmp_path / "out")
    prepare([tmp_path], tmp_path / "out", SETTINGS, force=True)
    prepare([f"{tmp_path}/**/*.json"], tmp_path / "out", SETTINGS, force=True)
    assert digest_of(tmp_path / "out") == first


def test_field_is_guessed(tmp_path: Path) -> None:
    said: list[str] = []
    (tmp_path / "one.jsonl").write_text('{"n": 1, "words": "a"}\n{"n": 2, "words": "b"}\n')
    prepare([tmp_path / "one.jsonl"], tmp_path / "1", notify=said.append)
    assert said[0] == f"Text field: words, as in {tmp_path / 'one.jsonl'}."
    (tmp_path / "two.csv").write_text("id,when,reviewText,summary\n1,2020-01-01,long,short\n")
    manifest = prepare([tmp_path / "two.csv"], tmp_path / "2")
    assert manifest["settings"]["text_field"] == "reviewText"
    (tmp_path / "odd.csv").write_bytes("n,wörter\n1,grün\n".encode())
    prepare([tmp_path / "odd.csv"], tmp_path / "odd")
    assert all_documents(tmp_path / "odd") == ["grün\n".encode()]
    (tmp_path / "three.jsonl").write_text('{"left": "a", "right": "b"}\n')
    with pytest.raises(UserError, match=r"several fields that hold text: left, right\. .*--text-field left"):
        prepare([tmp_path / "three.jsonl"], tmp_path / "3")
    (tmp_path / "four.jsonl").write_text('{"n": 1}\n')
    with pytest.raises(UserError, match="no field that holds text"):
        prepare([tmp_path / "four.jsonl"], tmp_path / "4")
    assert not (tmp_path / "3").exists()
    assert not (tmp_path / "4").exists()


def test_long_documents(tmp_path: Path) -> None:
    settings = PrepareSettings(split=(1, 0, 0), framing="none", max_document_mb=0.001, on_error="skip", document="file")
    text = ("é" * 30 + "\n") * 100
    (tmp_path / "a.txt").write_text(text)
    prepare([tmp_path / "a.txt"], tmp_path / "file", settings)
    found = all_documents(tmp_path / "file")
    assert b"".join(found).decode() == text
    assert len(found) == 7
    assert all(500 <= len(d) <= 1000 and d.endswith(b"\n") for d in found[:-1])
    (tmp_path / "b.txt").write_text("é" * 3000)
    prepare([tmp_path / "b.txt"], tmp_path / "characters", settings)
    assert [len(d) for d in all_documents(tmp_path / "characters")] == [1000] * 6
    write_jsonl(tmp_path / "c.jsonl", ["short", "x" * 1000, "y" * 900, "z" * 3_000_000, "last"])
    manifest = prepare([tmp_path / "c.jsonl"], tmp_path / "lines", settings)
    assert all_documents(tmp_path / "lines") == [b"short", b"y" * 900, b"last"]
    assert [(e["line"], e["reason"][:33]) for e in manifest["errors"]] == [
        (2, "the record is longer than 0.001 M"),
        (4, "the record is longer than 0.001 M"),
    ]


def test_rows_longer_than_a_block_of_csv(tmp_path: Path) -> None:
    texts = ["a", "long\n" * 600_000, "b", "quoted " * 500_000, "c"]
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["text", "n"], *([text, "1"] for text in texts), ["bad"], ["d", "1"]])
    settings = PrepareSettings(split=(1, 0, 0), framing="none", text_field="text", on_error="skip")
    manifest = prepare([tmp_path / "a.csv"], tmp_path / "out", settings)
    assert all_documents(tmp_path / "out") == [*(t.encode() for t in texts), b"d"]
    assert [(e["line"], e["reason"]) for e in manifest["errors"]] == [
        (7, "the row has 1 fields, not 2 (the header is row 1)")
    ]
