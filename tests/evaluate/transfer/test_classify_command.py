"""`overnight classify` on a run, from labelled texts to classified ones."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from evaluate.test_commands import write_run

import overnight
from overnight.cli import main
from overnight.cli.classify import main as classify
from overnight.errors import UserError
from overnight.evaluate.transfer import Classifier
from overnight.evaluate.transfer.prediction import batches

QUICK = ("--no-few-shot", "--standardise")
TEXTS = [(f"{'zz' if i % 2 else 'aa'} text {i // 3}", "odd" if i % 2 else "even") for i in range(80)]


def write_set(file: Path, rows: list[tuple[str, str]]) -> Path:
    with file.open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([("text", "label"), *rows])
    return file


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a classifier; tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("classify")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    run = write_run(folder / "run", None)
    data = write_set(folder / "reviews.csv", TEXTS)
    assert classify(["train", str(data), "--run", str(run), "--device", "cpu", "--pool", "mean", *QUICK]) == 0
    torch.set_num_threads(threads)
    return run


def said(argv: list[str]) -> str:
    with pytest.raises(UserError) as caught:
        classify(argv)
    assert caught.value.remedy
    return str(caught.value)


def test_training_leaves_a_classifier_and_its_results(trained: Path) -> None:
    folder = trained / "transfer" / "reviews"
    results = json.loads((folder / "results.json").read_text())
    assert results["classes"] == ["even", "odd"]
    assert results["all_units"]["test_accuracy"] == 1.0
    assert results["model"] == {"run": str(trained), "step": 10}
    assert results["features"]["pool"] == "mean"
    model = overnight.load(trained, device="cpu")
    assert results["features"]["digest"] == model.digest == Classifier.load(folder).digest
    assert len(results["heat"]) >= 2
    for text in results["heat"]:
        assert len(text["values"]) == len(text["text"])
        assert text["text"].startswith("\n ")
        trace = model.trace(text["text"].strip(), results["best_unit"]["unit"])
        np.testing.assert_allclose(text["values"], trace.values, atol=1e-3)


def test_a_second_time_with_a_name_and_json(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write_set(tmp_path / "a.csv", TEXTS)
    dev = write_set(tmp_path / "b.csv", TEXTS[:10])
    argv = ["train", str(data), "--run", str(trained), "--device", "cpu", "--name", "again", "--json"]
    assert classify([*argv, "--no-few-shot", "--no-ngrams", "--dev", str(dev), "--cache", str(tmp_path / "cache")]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["all_units"]["chosen_on"] == "dev"
    assert results == json.loads((trained / "transfer" / "again" / "results.json").read_text())


def predict(capsysbinary: Any, *argv: str) -> bytes:
    assert classify(["predict", *argv, "--device", "cpu"]) == 0
    out: bytes = capsysbinary.readouterr().out
    return out


def test_files_are_classified_record_by_record(trained: Path, tmp_path: Path, capsysbinary: Any) -> None:
    lines = tmp_path / "new.txt"
    lines.write_bytes(b'zz text 5\n\nbytes \xff\xe9, a comma\naa "text" 5\n')
    options = ["--run", str(trained), "--classifier", "reviews"]
    written = predict(capsysbinary, str(lines), *options, "--batch", "2")
    assert b"bytes \xff\xe9, a comma" in written
    rows = list(csv.DictReader(io.StringIO(written.decode("utf-8", "surrogateescape"))))
    assert [row["text"] for row in rows] == ["zz text 5", "", "bytes \udcff\udce9, a comma", 'aa "text" 5']
    assert (rows[0]["label"], rows[3]["label"]) == ("odd", "even")
    assert all(float(row["p_even"]) + float(row["p_odd"]) == pytest.approx(1, abs=1e-5) for row in rows)

    out = tmp_path / "out.jsonl"
    data = write_set(tmp_path / "new.csv", TEXTS[:5])
    predict(capsysbinary, str(data), *options, "--out", str(out))
    records = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [record["text"] for record in records] == [text for text, _ in TEXTS[:5]]
    assert [record["label"] for record in records] == [label for _, label in TEXTS[:5]]
    classifier = Classifier.load(trained / "transfer" / "reviews")
    features = classifier.features(overnight.load(trained, device="cpu"), [text for text, _ in TEXTS[:5]])
    given = [[record["probabilities"][name] for name in ("even", "odd")] for record in records]
    np.testing.assert_allclose(given, classifier.predict_proba(features), atol=1e-5)


class Typed(io.RawIOBase):
    """Standard input whose second line comes only after the first has been answered."""

    def __init__(self, answered: Any) -> None:
        self.lines, self.answered = [b"zz text 1\n", b"aa text 2\n"], answered

    def read(self, size: int = -1) -> bytes:
        if not self.lines:
            return b""
        if len(self.lines) == 1:
            self.answered.wait(30)
        return self.lines.pop(0)


def test_a_stream_is_answered_line_by_line(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    answered = threading.Event()

    class Out(io.BytesIO):
        def flush(self) -> None:
            if self.getvalue().count(b"\n") == 2:
                answered.set()

    out = Out()
    monkeypatch.setattr(sys, "stdin", type("In", (), {"buffer": Typed(answered)}))
    monkeypatch.setattr(sys, "stdout", type("Stdout", (), {"buffer": out}))
    assert classify(["predict", "-", "--run", str(trained), "--classifier", "reviews", "--device", "cpu"]) == 0
    assert answered.is_set()
    assert [line.split(b",")[0] for line in out.getvalue().splitlines()] == [b"label", b"odd", b"even"]


def test_an_error_in_a_stream_reaches_the_reader() -> None:
    def texts() -> Iterator[str]:
        yield "one"
        raise UserError("broken.", "mend it.")

    found = batches(texts(), 8, live=True)
    with pytest.raises(UserError, match="broken"):
        list(found)


def test_mistakes_are_one_sentence(trained: Path, tmp_path: Path) -> None:
    run = ["--run", str(trained), "--device", "cpu"]
    data = write_set(tmp_path / "a.csv", TEXTS)
    assert "cannot be the name of a folder" in said(["train", str(data), *run, "--name", "a/b"])
    assert "has no field 'nothing'" in said(["train", str(data), *run, "--text-field", "nothing"])
    assert "layer=3" in said(["train", str(data), *run, "--layer", "3"])
    empty = tmp_path / "empty.txt"
    empty.touch()
    assert said(["predict", str(empty), *run, "--classifier", "reviews"]).startswith(f"{empty} holds no text.")
    lines = tmp_path / "lines.txt"
    lines.write_text("a\n")
    assert "There is no classifier at nothing." in said(["predict", str(lines), *run, "--classifier", "nothing"])
    assert "--batch 0" in said(["predict", str(lines), *run, "--batch", "0"])
    assert "classify guess is not known" in said(["guess"])
    missing = str(tmp_path / "no" / "out.csv")
    assert "cannot be written" in said(["predict", str(lines), *run, "--classifier", "reviews", "--out", missing])


def test_a_classifier_of_other_weights_is_refused(trained: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(trained, run)
    lines = tmp_path / "lines.txt"
    lines.write_text("a\n")
    out = tmp_path / "out.csv"
    argv = ["predict", str(lines), "--run", str(run), "--classifier", "reviews", "--device", "cpu", "--out", str(out)]
    assert "trained with other weights" in said([*argv, "--checkpoint", "last"])
    assert not out.exists()
    for folder in (run / "transfer").iterdir():
        shutil.rmtree(folder)
    assert "has no classifier" in said(["predict", str(lines), "--run", str(run)])


def test_the_command_says_what_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify"]) == 0
    shown = capsys.readouterr().out
    for flag in ("--run", "--label-field", "--classifier", "--class-weight", "--out"):
        assert flag in shown
    assert main(["classify", "train", os.devnull, "--run", "nowhere"]) == 2
    assert "overnight: " in capsys.readouterr().err


def test_a_trace_as_a_picture(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "unit.png"
    assert main(["trace", str(trained), "caf\u00e9 <b>", "--unit", "3", "--device", "cpu", "--png", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(capsys.readouterr().out.splitlines()) == len("\n café <b> ".encode())
