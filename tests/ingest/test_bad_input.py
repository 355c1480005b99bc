"""What a user gets for bad input: one clear sentence, and nothing half-written."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from ingest.checks import all_documents, write_jsonl
from pyarrow import parquet

from overnight.data.ingest import PrepareSettings, prepare
from overnight.errors import UserError

SKIP = PrepareSettings(split=(1, 0, 0), framing="none", text_field="text", on_error="skip")
STOP = PrepareSettings(split=(1, 0, 0), framing="none", text_field="text")
GOOD = b'{"text": "good"}\n'


def fails(source: Path, message: str, settings: PrepareSettings = STOP) -> None:
    """It raises, names the file, and leaves nothing; in another process too."""
    out = source.parent / "never"
    for workers in (1, 2):
        with pytest.raises(UserError) as caught:
            prepare([source], out, settings, workers=workers)
        assert message in str(caught.value)
        assert caught.value.remedy
        assert str(source) in str(caught.value)
        assert not out.exists()


def skips(source: Path, expected: list[bytes], *errors: tuple[int | None, str]) -> None:
    manifest = prepare([source], source.parent / "out", SKIP)
    assert all_documents(source.parent / "out") == expected
    assert [(e["path"], e["line"], e["reason"]) for e in manifest["errors"]] == [(str(source), *e) for e in errors]
    assert manifest["counts"]["skipped"] == len(errors)


def test_missing_file(tmp_path: Path) -> None:
    fails(tmp_path / "none.jsonl", "does not exist")
    (tmp_path / "link.txt").symlink_to(tmp_path / "nowhere")
    fails(tmp_path / "link.txt", "No such file")
    with pytest.raises(UserError, match=r"No file matches .*\*\.txt"):
        prepare([f"{tmp_path}/x*.txt"], tmp_path / "out")
    with pytest.raises(UserError, match="No source was given"):
        prepare([], tmp_path / "out")


def test_unreadable_file(tmp_path: Path) -> None:
    source = tmp_path / "secret.jsonl"
    source.write_bytes(GOOD)
    source.chmod(0)
    tmp_path.chmod(0o777)
    code = (
        "import os, sys\n"
        "from overnight.data.ingest import prepare\n"
        "if os.getuid() == 0:\n"
        "    os.setuid(65534)\n"
        "try:\n"
        "    prepare(['secret.jsonl'], 'out')\n"
        "except Exception as error:\n"
        "    print(type(error).__name__, error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("UserError secret.jsonl cannot be read: Permission denied.")
    assert not (tmp_path / "out").exists()


def test_names_without_a_known_format(tmp_path: Path) -> None:
    (tmp_path / "notes.log").write_text("x")
    fails(tmp_path / "notes.log", "its name does not tell its format")
    with pytest.raises(UserError, match="no file with a known ending"):
        prepare([tmp_path], tmp_path / "out")
    os.mkfifo(tmp_path / "pipe.txt")
    fails(tmp_path / "pipe.txt", "is not a regular file")


def test_empty_corpus(tmp_path: Path) -> None:
    for name, data in (("a.jsonl", b""), ("b.txt", b""), ("c.csv", b"text,n\n"), ("d.json", b"[]"), ("e.csv", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match="hold no document"):
            prepare([tmp_path / name], tmp_path / "out")
        assert not (tmp_path / "out").exists()
    (tmp_path / "f.jsonl").write_bytes(b"oops\n")
    with pytest.raises(UserError, match="All 1 records were malformed; the first: not valid JSON"):
        prepare([tmp_path / "f.jsonl"], tmp_path / "out", SKIP)
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="All 2 documents were empty"):
        prepare([write_jsonl(tmp_path / "g.jsonl", ["", ""])], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "not valid JSON (unexpected end of data, column 14)"),
        (b'{"text": NaN}', "not valid JSON (unexpected character"),
        (b'{"text": "\xff" x}', "not valid JSON"),
        (b"[" * 3000, "not valid JSON"),
        (b'["text"]', "the record is an array, not an object"),
        (b'"text"', "the record is a string, not an object"),
        (b'{"body": "x", "n": 1}', "the record has no field 'text' (its fields: 'body', 'n')"),
        (b'{"text": null}', "the field 'text' is null, not a string"),
        (b'{"text": 5}', "the field 'text' is a number, not a string"),
        (b'{"text": ["x"]}', "the field 'text' is an array, not a string"),
        (b'{"text": true}', "the field 'text' is a boolean, not a string"),
    ],
)
def test_malformed_lines(tmp_path: Path, line: bytes, reason: str) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(GOOD * 2 + b"\n" + line + b"\n" + GOOD)
    fails(source, f"{source}:4: {reason}")
    manifest = prepare([source], tmp_path / "out", SKIP)
    assert all_documents(tmp_path / "out") == [b"good"] * 3
    assert manifest["errors"][0]["line"] == 4
    assert manifest["errors"][0]["reason"].startswith(reason)


@pytest.mark.usefixtures("small_pieces")
def test_line_numbers_hold_in_every_piece(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    source.write_bytes(b"".join(GOOD if i % 7 else b"bad\n" for i in range(1, 1001)))
    assert source.stat().st_size > 10_000
    manifest = prepare([source], tmp_path / "out", SKIP, workers=2)
    assert manifest["counts"]["skipped"] == 142
    assert [e["line"] for e in manifest["errors"]] == list(range(7, 707, 7))
    assert len(manifest["errors"]) == 100
    # The first bad line in reading order is the one that is named, whichever process comes first.
    (tmp_path / "b.jsonl").write_bytes(GOOD * 500 + b"bad\n" * 10)
    fails(tmp_path / "b.jsonl", f"{tmp_path / 'b.jsonl'}:501: not valid JSON")


@pytest.mark.parametrize(
    ("text", "line", "reason", "before"),
    [
        ('[{"text": "good"},\n {"text": "cut', 2, "not valid JSON (Unterminated string", 1),
        ('[{"text": "good"}\n {"text": "x"}]', 2, "not valid JSON (no comma or bracket", 1),
        ('[{"text": "good"},\n]', 2, "not valid JSON (Expecting value", 1),
        ('[{"text": "good"}] x', 1, "not valid JSON (something follows the array)", 1),
        ('[{"text": "good"}', 1, "not valid JSON (no comma or bracket", 1),
        ('{\n"text": "good"}\n\nNaN', 4, "not valid JSON (NaN is not a JSON value)", 1),
        ("[" * 100_000, 1, "not valid JSON (nested too deeply)", 0),
        ("nonsense", 1, "not valid JSON (Expecting value)", 0),
    ],
)
def test_malformed_json(tmp_path: Path, text: str, line: int, reason: str, before: int) -> None:
    source = tmp_path / "a.json"
    source.write_text(text)
    fails(source, f"{source}:{line}: {reason}")
    (tmp_path / "b.jsonl").write_bytes(GOOD)
    manifest = prepare([source, tmp_path / "b.jsonl"], tmp_path / "out", SKIP)
    assert len(all_documents(tmp_path / "out")) == before + 1
    assert manifest["errors"][0]["reason"].endswith("; the rest of the file is left out")


def test_malformed_elements_of_an_array(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[\n{"text": "one"},\n{"no": 1},\n5,\n{"text": 6},\n{"text": "two"}]')
    fails(tmp_path / "a.json", f"{tmp_path / 'a.json'}:3: the record has no field 'text' (its fields: 'no')")
    skips(
        tmp_path / "a.json",
        [b"one", b"two"],
        (3, "the record has no field 'text' (its fields: 'no')"),
        (4, "the record is a number, not an object"),
        (5, "the field 'text' is a number, not a string"),
    )


def test_truncated_and_damaged_streams(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"text": f"line {i} {i * i}"}) + "\n" for i in range(200_000)).encode()
    for name, data in (("a.jsonl.gz", gzip.compress(lines, 1)), ("b.jsonl.zst", zstandard.compress(lines))):
        source = tmp_path / name
        source.write_bytes(data[: len(data) // 2])
        fails(source, "the compressed stream ends too early; the file is truncated")
        manifest = prepare([source], tmp_path / f"out-{name}", SKIP)
        assert 10_000 < manifest["counts"]["documents"] < 199_000
        assert manifest["counts"]["skipped"] == 1
        source.write_bytes(b"this is not compressed")
        fails(source, "stream is damaged")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines, 1)[:-8] + b"\x00" * 8)
    fails(tmp_path / "a.jsonl.gz", "stream is damaged (CRC check failed")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"text")[:-3])
    fails(tmp_path / "c.txt.gz", "truncated")
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(b"text,n\n" + b"a,1\n" * 5000)[:-9])
    fails(tmp_path / "d.csv.gz", "truncated")


def test_zstd_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.version_info >= (3, 14):
        pytest.skip("this Python has zstd itself")
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(GOOD))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(UserError, match=r"pip install 'overnight\[zstd\]'"):
        prepare([tmp_path / "a.jsonl.zst"], tmp_path / "out", STOP)
    assert not (tmp_path / "out").exists()


def test_parquet(tmp_path: Path) -> None:
    source = tmp_path / "a.parquet"
    table = pa.table({"left": ["x"], "n": [1], "kind": pa.array(["k"]).dictionary_encode()})
    parquet.write_table(table, source)
    fails(source, "has no column 'text'. Choose one of its columns of text with --text-field: left, kind.")
    fails(source, "column 'n' holds int64, not text", PrepareSettings(text_field="n"))
    fails(source, "several fields that hold text: left, kind", PrepareSettings())
    parquet.write_table(pa.table({"text": ["one", None, "two"]}), source)
    fails(source, f"{source}:2: the field 'text' is null, not a string")
    data = source.read_bytes()
    skips(source, [b"one", b"two"], (2, "the field 'text' is null, not a string"))
    source.write_bytes(data[:-20])
    with pytest.raises(UserError, match=r"a\.parquet: "):
        prepare([source], tmp_path / "out2", STOP)
    with pytest.raises(UserError, match=r"a\.parquet: "):
        prepare([source], tmp_path / "out2", PrepareSettings())
    assert not (tmp_path / "out2").exists()


def test_csv(tmp_path: Path) -> None:
    source = tmp_path / "a.csv"
    source.write_text("body,n\nx,1\n")
    fails(source, "has no column 'text'. Choose one of its columns of text with --text-field: body.")
    source.write_text("text,n\na,1\nb,2,3\nc,3\nd\ne,4\n")
    fails(source, f"{source}:3: the row has 3 fields, not 2 (the header is row 1)")
    source.write_text('text,n\na,1\n"open,2\n')
    fails(source, f"{source}:3: the row has 1 fields, not 2")
    source.write_bytes(b"text,n\na,1\nb\xff,2,3\nc\xe9,3\nd\ne,4\n")
    skips(
        source,
        [b"a", b"c\xe9", b"e"],
        (3, "the row has 3 fields, not 2 (the header is row 1)"),
        (5, "the row has 1 fields, not 2 (the header is row 1)"),
    )
    (tmp_path / "b.csv").write_bytes(b"text,n\n" + b"x" * 3_000_000)
    with pytest.raises(UserError, match=r"b\.csv: a row is longer than 1\.\d+ MB"):
        prepare([tmp_path / "b.csv"], tmp_path / "out2", PrepareSettings(text_field="text", max_document_mb=0.1))


def test_file_that_goes_away_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from overnight.data.ingest import run

    source = write_jsonl(tmp_path / "a.jsonl", ["x"])

    def gone(*_: object) -> None:
        source.unlink()
        run_piece(*_)

    run_piece = run.run_piece
    monkeypatch.setattr(run, "run_piece", gone)
    with pytest.raises(UserError, match=r"a\.jsonl cannot be read: No such file"):
        prepare([source], tmp_path / "out", STOP)
    assert not (tmp_path / "out").exists()


def test_folders_of_something_else(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", ["x"])
    for name, said in (("run.json", "holds another run"), ("notes.txt", "holds something else")):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_text("{}")
        for force in (False, True):
            with pytest.raises(UserError, match=said):
                prepare([source], folder, force=force)
        assert [p.name for p in folder.iterdir()] == [name]
    with pytest.raises(UserError, match="is a file, not a folder"):
        prepare([source], source)
    with pytest.raises(UserError, match="cannot be written"):
        prepare([source], source / "below")
    # Shards without a manifest may be anyone's, and so may a manifest of another format.
    (tmp_path / "bare" / "train").mkdir(parents=True)
    (tmp_path / "bare" / "train" / "00000.bin").write_bytes(b"x")
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text('{"name": "app"}')
    for name in ("bare", "web"):
        with pytest.raises(UserError, match="Choose an"):
            prepare([source], tmp_path / name, force=True)
    assert (tmp_path / "bare" / "train" / "00000.bin").exists()
    assert (tmp_path / "web" / "manifest.json").exists()


def test_a_corpus_is_replaced_only_by_force(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", ["x"])
    said: list[str] = []
    first = prepare([source], tmp_path / "out", STOP)
    assert prepare([source], tmp_path / "out", STOP, notify=said.append) == first
    assert said == [f"{tmp_path / 'out'} is already complete; nothing to do."]
    with pytest.raises(UserError, match=r"already holds a corpus made otherwise \(framing\)"):
        prepare([source], tmp_path / "out", PrepareSettings(split=(1, 0, 0), text_field="text"))
    write_jsonl(source, ["y", "z"])
    with pytest.raises(UserError, match=r"made otherwise \(sources\)"):
        prepare([source], tmp_path / "out", STOP)
    prepare([source], tmp_path / "out", STOP, force=True)
    assert all_documents(tmp_path / "out") == [b"y", b"z"]
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match=r"holds something else \(mine\.txt\)"):
        prepare([source], tmp_path / "out", STOP, force=True)
    (tmp_path / "out" / "mine.txt").unlink()
    (tmp_path / "out" / "train" / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match=r"holds something else \(train/mine\.txt\)"):
        prepare([source], tmp_path / "out", STOP, force=True)
    assert (tmp_path / "out" / "train" / "00000.bin").exists()
