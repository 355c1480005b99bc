"""`overnight prepare` on the command line: what it prints, how fast it starts, how much memory it takes."""

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from ingest.checks import all_documents, documents_of, write_jsonl

from overnight.cli.prepare import main
from overnight.errors import UserError

RUN = "import sys; from overnight.cli.prepare import main; sys.exit(main(sys.argv[1:]))"


def test_prepare_and_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", [f"<b>text</b> {i % 900}" for i in range(1000)] + ["", "bad"])
    source.write_bytes(source.read_bytes().replace(b'"bad"', b"bad") + b'{"text": "\xe9"}\n')
    out = tmp_path / "my corpus"
    options = "--strip-tags --collapse-whitespace --dedup --on-error skip --split 8,1,1 --framing none --workers 2"
    assert main([str(source), "--out", str(out), *options.split()]) == 0
    captured = capsys.readouterr()
    counts = json.loads((out / "manifest.json").read_text())["splits"]
    rows = {line.split()[0]: line.split()[1:] for line in captured.out.splitlines()[1:5]}
    assert rows["train"] == [f"{counts['train']['documents']}", f"{counts['train']['bytes']:,}", "1"]
    assert rows["all"][0] == "901"
    assert (
        "1 malformed records skipped, 100 duplicates dropped, 1 empty documents dropped, "
        "1 with bytes that are not UTF-8 (kept)" in captured.out
    )
    assert f"skipped {source}:1002: not valid JSON" in captured.out
    assert "MB/s" in captured.out
    assert captured.out.splitlines()[-1] == f"Next: overnight train byte-lm --data '{out}'"
    assert captured.err == f"Text field: text, as in {source}.\n"
    assert all_documents(out)[0].startswith(b"text ")
    assert main([str(source), "--out", str(out), *options.split()]) == 0
    assert "already complete" in capsys.readouterr().err


def test_parts_and_join(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_jsonl(tmp_path / "a.jsonl", ["x" * 1000 + str(i) for i in range(500)])
    for part in ("1/2", "2/2"):
        assert main([str(source), "--out", str(tmp_path / part[0]), "--part", part]) == 0
    assert capsys.readouterr().out.count("Next: overnight prepare --join PART... --out DIR") == 2
    assert main(["--join", str(tmp_path / "1"), str(tmp_path / "2"), "--out", str(tmp_path / "all")]) == 0
    assert sum(map(len, documents_of(tmp_path / "all").values())) == 500


def test_held_out_files_and_glob(tmp_path: Path) -> None:
    for name in ("a", "b", "v", "w"):
        (tmp_path / f"{name}.txt").write_text(name)
    held = ["--valid", str(tmp_path / "v.txt"), str(tmp_path / "w.txt"), "--split", "1,0,0"]
    assert main([f"{tmp_path}/*.txt", "--out", str(tmp_path / "out"), *held]) == 0
    assert documents_of(tmp_path / "out") == {"train": [b"a\n", b"b\n"], "valid": [b"v\n", b"w\n"], "test": []}


def test_standard_input(tmp_path: Path) -> None:
    arguments = ["-", "--format", "txt", "--document", "line", "--split", "1,0,0", "--out", str(tmp_path / "out")]
    subprocess.run([sys.executable, "-c", RUN, *arguments], input=b"one\ntwo\n", check=True, stdout=subprocess.DEVNULL)
    assert all_documents(tmp_path / "out") == [b"one\n", b"two\n"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x.txt"], "--out DIR"),
        (["--out", "y"], "No source"),
        (["x.txt", "--out", "y", "--split", "1,2"], "is not three numbers"),
        (["x.txt", "--out", "y", "--split", "a,b,c"], "is not three numbers"),
        (["x.txt", "--out", "y", "--workers", "0"], "--workers is 0"),
        (["x.txt", "--out", "y", "--part", "4/3"], "part is '4/3'"),
        (["x.txt", "--out", "y"], "x.txt does not exist"),
    ],
)
def test_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        main(arguments)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_split_without_documents_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "book.txt").write_text("a long book\n")
    assert main([str(tmp_path / "book.txt"), "--out", str(tmp_path / "out")]) == 0
    assert "No document fell into" in capsys.readouterr().err


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom overnight.cli.prepare import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'pyarrow', 'numpy', 'orjson'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "--text-field" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("kind", ["jsonl", "txt", "csv", "parquet"])
def test_memory_does_not_grow_with_the_input(tmp_path: Path, kind: str) -> None:
    peaks = [_peak_mb(_sample(tmp_path, kind, megabytes), tmp_path / f"out{megabytes}") for megabytes in (30, 120)]
    assert max(peaks) < 250
    assert peaks[1] - peaks[0] < 40


def _sample(folder: Path, kind: str, megabytes: int) -> Path:
    import pyarrow as pa
    from pyarrow import csv, parquet

    path = folder / f"{megabytes}.{kind}"
    texts = [f"{i} " + "some words, and more of them " * 30 for i in range(1000)]
    rounds = megabytes * 1_000_000 // sum(map(len, texts))
    if kind == "parquet":
        with parquet.ParquetWriter(path, pa.schema([("text", pa.string())]), use_dictionary=False) as writer:
            for _ in range(rounds):
                writer.write_table(pa.table({"text": texts}))
    elif kind == "csv":
        with csv.CSVWriter(path, pa.schema([("text", pa.string())])) as writer:
            for _ in range(rounds):
                writer.write_table(pa.table({"text": texts}))
    else:
        lines = [json.dumps({"text": t}) if kind == "jsonl" else t for t in texts]
        with open(path, "w") as file:
            for _ in range(rounds):
                file.write("\n".join(lines) + "\n")
    return path


def _peak_mb(source: Path, out: Path) -> float:
    arguments = [str(source), "--out", str(out), "--max-document-mb", "4"]
    process = psutil.Popen([sys.executable, "-c", RUN, *arguments], stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        with contextlib.suppress(psutil.TimeoutExpired):
            process.wait(0.005)
    assert process.wait() == 0
    return peak / 1e6
