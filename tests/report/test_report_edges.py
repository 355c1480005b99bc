"""Runs that are unfinished, damaged, long, many or alike, and pages that cannot be written."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from overnight.errors import UserError
from overnight.report import write_report

RunMaker = Callable[..., Path]
PageReader = Callable[..., Any]


def test_a_running_run_without_anything_yet(make_run: RunMaker, page_of: PageReader) -> None:
    folder = make_run(steps=20, ended=False)
    for name in ("metrics.jsonl", "eval.jsonl", "samples.jsonl"):
        (folder / name).unlink()
    page = page_of(folder)
    for said in (
        "unfinished",
        "This run has not been evaluated yet.",
        "Nothing has been logged yet.",
        "This run has written no samples.",
    ):
        assert said in page.text
    assert page.panels() == []
    assert "best — parameters 5.64 M bytes seen — training time — throughput — steps —" in page.text
    assert "None" not in page.text


def test_a_killed_run_says_what_was_left_out(make_run: RunMaker, page_of: PageReader) -> None:
    folder = make_run(steps=300, ended=False)
    file = folder / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-10])
    page = page_of(folder)
    assert "unfinished" in page.text
    assert "The last line of metrics.jsonl is cut short and was left out." in page.text
    assert "steps 290" in page.text


def test_a_run_of_one_record(make_run: RunMaker, page_of: PageReader) -> None:
    folder = make_run(steps=10, eval_every=10)
    page = page_of(folder)
    assert "Bits per byte" in page.panels()
    kinds = [path["class"].split()[0] for path in page.paths("Bits per byte", "steps")]
    assert kinds == ["bar", "dot", "dot"]


def test_values_that_are_not_finite_break_lines_and_nothing_else(make_run: RunMaker, page_of: PageReader) -> None:
    folder = make_run(steps=200)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines[9] |= {"bits_per_byte": math.nan, "loss": math.nan, "grad_norm": math.inf, "lr": None, "tokens_per_s": None}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = page_of(folder)
    curve = next(p for p in page.paths("Bits per byte", "steps") if p["class"].startswith("curve"))
    assert curve["d"].count("M") == 2
    drawn = " ".join(a.get("d", "") + a.get("style", "") for _, a in page.elements).lower()
    assert "nan" not in drawn
    assert "inf" not in drawn


def test_a_run_whose_values_are_all_missing(make_run: RunMaker, page_of: PageReader) -> None:
    folder = make_run(steps=20, ended=False)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "bits_per_byte": NaN}\n')
    (folder / "eval.jsonl").write_text('{"step": 2, "split": "valid", "bits_per_byte": null, "low": 1}\n')
    page = page_of(folder)
    assert page.panels() == []
    assert "This run has not been evaluated yet." in page.text


def test_a_run_without_bits_shows_its_loss(make_run: RunMaker, page_of: PageReader) -> None:
    folder = make_run(steps=20, ended=False)
    (folder / "metrics.jsonl").write_text("".join(f'{{"step": {s}, "loss": {9 - s}}}\n' for s in (1, 2, 3)))
    (folder / "eval.jsonl").unlink()
    page = page_of(folder)
    assert page.panels() == ["Training loss"]
    assert [a["id"] for tag, a in page.elements if a.get("type") == "radio"] == ["x-steps"]


def test_long_runs_and_many_runs_stay_small(make_run: RunMaker, page_of: PageReader) -> None:
    assert page_of(make_run("long", steps=60_000, log_every=1, eval_every=100, precision="fp16")).size < 600_000
    many = [make_run(f"many-{i}", steps=3000, log_every=1, eval_every=30, precision="fp16", seed=i) for i in range(12)]
    page = page_of(*many)
    assert page.size < 2_000_000
    assert len([a for tag, a in page.elements if a.get("type") == "checkbox"]) == 12


def test_runs_scored_on_other_bytes_are_not_called_the_same(make_run: RunMaker, page_of: PageReader) -> None:
    a, b = make_run("a", steps=400), make_run("b", steps=400)
    assert "On the same held-out bytes" in page_of(a, b).text
    summary = json.loads((b / "summary.json").read_text())
    summary["final"]["bytes"] = 12
    summary["baselines"][0]["bits_per_byte"] = 4.0
    (b / "summary.json").write_text(json.dumps(summary))
    page = page_of(a, b)
    assert "On the same held-out bytes" not in page.text
    assert "The runs were scored on different numbers of held-out bytes" in page.text
    assert "The runs' baselines differ" in page.text
    assert "order-0 entropy (a) 4.591" in page.text
    assert "order-0 entropy (b) 4.000" in page.text


def test_runs_of_one_name_are_told_apart_and_a_run_named_twice_is_shown_once(
    make_run: RunMaker, page_of: PageReader
) -> None:
    a, b = make_run("x/run", steps=60), make_run("y/run", steps=60)
    assert "x/run" in page_of(a, b).text
    assert "compared" not in page_of(a, a / "run.json").text


def test_the_page_goes_into_the_run_or_here(
    make_run: RunMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    a, b = make_run("a", steps=20), make_run("b", steps=20)
    assert write_report([a]) == a / "report" / "index.html"
    assert write_report([a, b]) == Path("overnight-report.html")
    assert write_report([a], "new/folder/page.html") == Path("new/folder/page.html")
    for file in (a / "report" / "index.html", tmp_path / "overnight-report.html", tmp_path / "new/folder/page.html"):
        assert file.read_text().rstrip().endswith("</html>")
        assert [other.name for other in file.parent.iterdir() if other.name.startswith(".")] == []


def test_a_write_that_fails_leaves_the_old_page(make_run: RunMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(steps=20)
    file = write_report([folder])
    file.write_text("the old page")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match=r"index\.html cannot be written: No space left on device"):
        write_report([folder])
    assert [(f.name, f.read_text()) for f in file.parent.iterdir()] == [("index.html", "the old page")]


def test_a_folder_cannot_be_the_page(make_run: RunMaker, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a folder"):
        write_report([make_run(steps=20)], tmp_path)


def test_without_jinja2_the_extra_is_named(make_run: RunMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_run(steps=20)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UserError, match=r"overnight\[report\]"):
        write_report([folder])
    assert not (folder / "report").exists()
