"""Whatever the bytes, ingest gives a corpus or a UserError; and what went in comes out."""

import contextlib
import gzip
import io
import itertools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingest.checks import all_documents, documents_of
from pyarrow import parquet

from overnight.data.ingest import PrepareSettings, preparation, prepare
from overnight.errors import UserError

FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
plain = PrepareSettings(split=(1, 0, 0), framing="none", text_field="text")

json_values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=True) | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("text"), inner, max_size=3),
    max_leaves=8,
)


def table(rows: list[str | None]) -> bytes:
    buffer = io.BytesIO()
    parquet.write_table(pa.table({"text": pa.array(rows, pa.string()), "n": range(len(rows))}), buffer)
    return buffer.getvalue()


def lines(values: list[object]) -> bytes:
    return "\n".join(json.dumps(v) for v in values).encode()


seeds: dict[str, st.SearchStrategy[bytes]] = {
    "txt": st.binary(max_size=300),
    "jsonl": st.lists(json_values, max_size=6).map(lines),
    "json": (st.lists(json_values, max_size=6) | json_values).map(lambda v: json.dumps(v).encode()),
    "csv": st.lists(st.lists(st.text(max_size=8), max_size=3), max_size=5).map(
        lambda rows: ("text,n\n" + "\n".join(",".join(row) for row in rows)).encode("utf-8", "surrogatepass")
    ),
    "parquet": st.lists(st.none() | texts, max_size=5).map(table),
}
packers: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data, mtime=0),
    ".zst": lambda data: zstandard.compress(data),
}


@st.composite
def damaged(draw: st.DrawFn, kind: str, packing: str) -> bytes:
    """Data of a format, or of none, with bytes cut out, put in or altered before and after packing."""
    data = draw(seeds[kind] | st.binary(max_size=200))
    for pack in (packers[packing], packers[""]):
        for _ in range(draw(st.integers(0, 2))):
            start = draw(st.integers(0, len(data)))
            data = data[:start] + draw(st.binary(max_size=4)) + data[start + draw(st.integers(0, 6)) :]
        data = pack(data)
    return data


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["txt", "jsonl", "json", "csv", "tsv", "parquet"])
def test_anything_gives_a_corpus_or_a_user_error(kind: str, packing: str) -> None:
    @FUZZ
    @given(
        damaged("csv" if kind == "tsv" else kind, packing),
        st.builds(
            PrepareSettings,
            text_field=st.sampled_from([None, "text"]),
            document=st.sampled_from(["file", "line", "blank-line"]),
            strip_tags=st.booleans(),
            unescape_html=st.booleans(),
            collapse_whitespace=st.booleans(),
            framing=st.sampled_from(["newline", "none", "reviews"]),
            dedup=st.booleans(),
            on_error=st.sampled_from(["stop", "skip"]),
            shard_mb=st.sampled_from([0.00001, 256]),
            max_document_mb=st.sampled_from([0.00001, 16]),
        ),
    )
    def run(data: bytes, chosen: PrepareSettings) -> None:
        with tempfile.TemporaryDirectory() as folder:
            source, out = Path(folder, f"data.{kind}{packing}"), Path(folder, "out")
            source.write_bytes(data)
            failed = None
            try:
                prepare([source], out, chosen)
            except UserError as error:
                failed = error
            if failed is None:
                documents_of(out)
            else:
                assert failed.remedy
                assert str(source) in str(failed) or "hold no document" in failed.problem
                assert not out.exists()

    run()


def round_trip(name: str, data: bytes, expected: list[bytes], chosen: PrepareSettings = plain) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, name), Path(folder, "out")
        source.write_bytes(data)
        with contextlib.suppress(UserError) if not expected else contextlib.nullcontext():
            prepare([source], out, chosen)
            assert all_documents(out) == expected


@FUZZ
@given(st.lists(texts, max_size=20), st.booleans(), st.integers(1, 200))
def test_json_lines_round_trip(values: list[str], ascii_only: bool, piece: int) -> None:
    data = "".join(json.dumps({"n": 1, "text": v}, ensure_ascii=ascii_only) + "\n" for v in values).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, "PIECE_BYTES", piece)
        round_trip("a.jsonl", data, [v.encode() for v in values])


@FUZZ
@given(st.lists(texts, max_size=20), st.sampled_from([None, 0, 3]))
def test_json_arrays_round_trip(values: list[str], indent: int | None) -> None:
    data = json.dumps([{"text": v} for v in values], indent=indent, ensure_ascii=False).encode()
    round_trip("a.json", data, [v.encode() for v in values])


@FUZZ
@given(st.lists(texts, max_size=20))
def test_parquet_round_trip(values: list[str]) -> None:
    round_trip("a.parquet", table(list(values)), [v.encode() for v in values])


@FUZZ
@given(st.lists(st.binary(min_size=1, max_size=30).filter(lambda b: b"\n" not in b and b[-1:] != b"\r"), max_size=20))
def test_text_lines_round_trip(values: list[bytes]) -> None:
    chosen = PrepareSettings(split=(1, 0, 0), framing="newline", document="line")
    round_trip("a.txt", b"\n".join(values), [v + b"\n" for v in values], chosen)


@FUZZ
@given(st.binary(min_size=1, max_size=400), st.sampled_from([1, 2, 7, 50]))
def test_cut_text_joins_to_itself(data: bytes, limit: int) -> None:
    chosen = PrepareSettings(split=(1, 0, 0), framing="none", document="file", max_document_mb=limit / 1e6)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "a.txt").write_bytes(data)
        prepare([folder], Path(folder, "out"), chosen)
        documents = all_documents(Path(folder, "out"))
    assert b"".join(documents) == data
    assert max(map(len, documents)) <= limit


def test_reading_does_not_depend_on_where_a_chunk_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from overnight.data.ingest import records, text

    values = ["short", "é" * 40, 'quote " and \\ ', "line\nline", "🎬" * 9, "1"]
    data = json.dumps([{"text": v, "n": 12345} for v in values], indent=1, ensure_ascii=False)
    (tmp_path / "a.json").write_text(data)
    (tmp_path / "b.jsonl").write_text("\n".join(json.dumps({"text": v}) for v in values))
    (tmp_path / "c.txt").write_text("one\n\ntwo\ntwo\n\n\nthree")
    chosen = PrepareSettings(split=(1, 0, 0), framing="none", text_field="text", document="blank-line")
    expected = [v.encode() for v in values] * 2 + [b"one", b"two\ntwo", b"three"]
    for chunk in itertools.chain(range(1, 9), (31, 64)):
        monkeypatch.setattr(records, "CHUNK", chunk)
        monkeypatch.setattr(text, "CHUNK", chunk)
        prepare([tmp_path], tmp_path / "out", chosen, force=True)
        assert all_documents(tmp_path / "out") == expected
