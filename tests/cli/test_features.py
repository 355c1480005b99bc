"""`overnight features`, `overnight trace` and `overnight generate --fix-unit`."""

import csv
import gzip
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from evaluate.byte_models import small_run

from overnight.cli import features, generate, main, trace
from overnight.cli.heat import characters, heat_lines
from overnight.errors import UserError
from overnight.evaluate.framing import frame
from overnight.evaluate.load import load_byte_model

TEXTS = ["a fine film", 'quoted "and", comma', "", "café", "last one"]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return small_run(tmp_path / "run")


def write(path: Path, kind: str) -> Path:
    records = [{"id": str(index), "review": text} for index, text in enumerate(TEXTS)]
    if kind == "txt":
        data = "".join(text + "\n" for text in TEXTS).encode()
    elif kind == "jsonl":
        data = "".join(json.dumps(record) + "\n" for record in records).encode()
    elif kind == "json":
        data = json.dumps(records).encode()
    elif kind == "parquet":
        import pyarrow as pa
        from pyarrow import parquet

        buffer = io.BytesIO()
        parquet.write_table(pa.Table.from_pylist(records), buffer)
        data = buffer.getvalue()
    else:
        text = io.StringIO()
        quoting = csv.QUOTE_MINIMAL if kind == "csv" else csv.QUOTE_NONE
        table = csv.writer(
            text, delimiter="," if kind == "csv" else "\t", quoting=quoting, quotechar='"' if kind == "csv" else None
        )
        table.writerows([["id", "review"], *([record["id"], record["review"]] for record in records)])
        data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize(
    "name", ["t.txt", "t.csv", "t.tsv", "t.json", "t.jsonl", "t.parquet", "t.jsonl.gz", "t.csv.gz"]
)
def test_every_format(name: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = write(tmp_path / name, name.split(".")[1]), tmp_path / "f.npy"
    argv = [str(run), str(source), "--out", str(out), "--precision", "fp32"]
    assert features.main([*argv, *([] if name == "t.txt" else ["--text-field", "review"])]) == 0
    assert "5 texts, 24 units each; step 10" in capsys.readouterr().out
    expected = load_byte_model(run).features(TEXTS, precision="fp32")
    np.testing.assert_array_equal(np.load(out, mmap_mode="r"), expected)


def test_options_reach_the_features(run: Path, tmp_path: Path) -> None:
    source, out = write(tmp_path / "t.txt", "txt"), tmp_path / "f.parquet"
    options = ["--layer", "0", "--pool", "mean", "--tanh", "--lanes", "2", "--cache", str(tmp_path / "cache")]
    assert main(["features", str(run), str(source), "--out", str(out), *options]) == 0
    from pyarrow import parquet

    found = np.stack(parquet.read_table(out)["features"].to_numpy())
    np.testing.assert_array_equal(found, load_byte_model(run).features(TEXTS, layer=0, pool="mean", tanh=True, lanes=2))
    assert len(list((tmp_path / "cache").rglob("*.npy"))) == 1


def test_standard_input(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.npy"
    argv = [sys.executable, "-m", "overnight", "features", str(run), "-", "--format", "txt", "--out", str(out)]
    done = subprocess.run(argv, input=b"one\n\xff\x00\n", capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(out), load_byte_model(run).features(["one", b"\xff\x00"]))


def test_mistakes_are_named_and_leave_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path / "t.jsonl", "jsonl")
    Path("bad.jsonl").write_text('{"text": "good"}\n{"text": 3}\n')
    Path("empty.txt").touch()
    before = sorted(Path().iterdir())
    for argv, problem in (
        ([str(run), str(source), "--out", "f.csv"], "does not tell a format"),
        ([str(run), "none.txt", "--out", "f.npy"], "none.txt does not exist"),
        ([str(run), str(source), "--out", "f.npy", "--text-field", "wrong"], "wrong"),
        ([str(run), "bad.jsonl", "--out", "f.npy"], "bad.jsonl:2"),
        ([str(run), str(source), "--out", "no/f.npy"], "folder no does not exist"),
        ([str(run), str(source), "--out", "f.npy", "--layer", "5"], "layer=5"),
        ([str(run), str(source), "--out", "f.npy", "--lanes", "0"], "lanes=0"),
        ([str(run), "empty.txt", "--out", "f.npy"], r"^empty\.txt holds no text\."),
        (["nothing", str(source), "--out", "f.npy"], "not a run folder"),
    ):
        with pytest.raises(UserError, match=problem):
            features.main(argv)
        assert sorted(Path().iterdir()) == before


def test_the_file_with_the_texts_is_not_overwritten(run: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "t.parquet", "parquet")
    with pytest.raises(UserError, match="is the file with the texts"):
        features.main([str(run), str(source), "--out", str(source)])


def test_a_trace_as_lines(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert trace.main([str(run), "café", "--unit", "7", "--layer", "0"]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    expected = load_byte_model(run).trace("café", 7, layer=0)
    assert bytes(int(row[1], 16) for row in rows) == expected.bytes
    assert [row[2] for row in rows] == ["", " ", "c", "a", "f", "", "", " "]
    np.testing.assert_allclose([float(row[3]) for row in rows], expected.values, rtol=1e-5)


def test_a_trace_in_colours(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    text = "words\x1b[2J and more words \u6f22\u5b57"
    assert trace.main([str(run), text, "--unit", "7", "--color", "always"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"unit 7: \S+ to \S+, full colour at ±\S+", head)
    plain = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]
    assert "".join(plain) == frame(text).decode().replace("\n", "↵").replace("\x1b", "\ufffd")
    assert "\x1b" not in "".join(plain)
    assert all(len(line) <= 20 for line in plain)


def test_colours_tell_the_value() -> None:
    (line,) = heat_lines(zip("abc", [-2.0, 0.0, 1.0], strict=True), scale=1.0, width=80)
    backgrounds = re.findall(r"48;2;([\d;]+)m(.)", line)
    assert backgrounds == [("176;76;0", "a"), ("238;238;238", "b"), ("0;84;166", "c")]
    assert line.endswith("\x1b[0m")
    assert list(heat_lines([], 1.0, 80)) == []
    assert [shown for shown, _ in characters(b"\xffa\xc3", [0.0] * 3)] == ["\ufffd", "a", "\ufffd"]
    assert list(heat_lines([("a", 0.0)], scale=0.0, width=2)) == ["\x1b[30;48;2;238;238;238ma\x1b[0m"]


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        (["x", "--unit", "24"], "unit=24: the model has 24 units a layer. Choose from 0 to 23"),
        (["x", "--unit", "0", "--layer", "2"], "layer=2"),
        (["x", "--unit", "0", "--scale", "0"], "--scale 0.0 gives no colour"),
    ],
)
def test_traces_that_cannot_be(argv: list[str], problem: str, run: Path) -> None:
    with pytest.raises(UserError, match=problem):
        trace.main([str(run), *argv])


def test_fixed_units_steer_and_are_told_beside_the_text(run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def made(*more: str) -> Any:
        assert generate.main([str(run), "--length", "60", "--prompt", "one", *more]) == 0
        return capfd.readouterr()

    free, fixed = made(), made("--fix-unit", "3=2.5", "--fix-unit", "10=-1")
    assert free.err == ""
    assert fixed.err == "unit 3 fixed at 2.5, unit 10 fixed at -1\n"
    expected = load_byte_model(run).generate("one", 60, fix_units={3: 2.5, 10: -1.0})
    assert fixed.out == "one" + "".join(expected) + "\n" != free.out
    assert made("--fix-unit", "3=2.5", "--layer", "0").out != made("--fix-unit", "3=2.5").out


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (["24=1"], "unit=24: the model has 24 units"),
        (["-1=1"], "unit=-1"),
        (["3"], "--fix-unit 3 is not UNIT=VALUE"),
        (["a=1"], "--fix-unit a=1 is not UNIT=VALUE"),
        (["3=x"], "is not UNIT=VALUE"),
        (["3=nan"], "cannot be fixed at nan"),
        (["3=1", "3=2"], "names unit 3 twice"),
    ],
)
def test_units_that_cannot_be_fixed(given: list[str], problem: str, run: Path) -> None:
    argv = [word for one in given for word in (f"--fix-unit={one}",)]
    with pytest.raises(UserError, match=problem):
        generate.main([str(run), *argv])


@pytest.mark.parametrize("name", ["features", "trace"])
def test_help_does_not_load_torch(name: str) -> None:
    code = (
        f"import sys, overnight.cli.{name} as command\n"
        "try:\n    command.main(['--help'])\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
