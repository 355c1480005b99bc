"""The page: what it says, that it stands alone, and that nothing in a run can break it."""

import json
import math
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from overnight.errors import UserError
from overnight.report import read_run, write_report
from overnight.report.curves import SIZE

RunMaker = Callable[..., Path]
VOID = {"meta", "input", "br", "img", "link", "hr"}


class Page(HTMLParser):
    """A page taken apart: its text, its elements with attributes, and the text of cells; it must be balanced."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.size = file.stat().st_size
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.pre: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag == "pre":
            self.pre.append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open or "script" in self.open:
            return
        self.words.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        if "pre" in self.open:
            self.pre[-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def paths(self, title: str, axis: str) -> list[dict[str, str]]:
        """The attributes of the paths of one plot over one axis."""
        inside, found = False, []
        for tag, attributes in self.elements:
            if tag == "svg":
                inside = attributes.get("aria-label", "").startswith(f"{title} against {axis}")
            elif tag == "path" and inside:
                found.append(attributes)
        return found

    def panels(self) -> list[str]:
        labels = [a["aria-label"] for tag, a in self.elements if tag == "svg" and "aria-label" in a]
        return list(dict.fromkeys(label.split(" against ")[0] for label in labels))


def page_of(*runs: Path) -> Page:
    return Page(write_report(runs, runs[0].parent / "page.html"))


def heights(path: dict[str, str], low: float, high: float) -> list[float]:
    """The values that a path shows on an axis from `low` to `high`."""
    values = []
    for stroke in path["d"].replace("h0", "").split("M")[1:]:
        _, y, *deltas = map(int, re.findall(r"-?\d+", stroke))
        values.append(y)
        values += [y := y + down for down in deltas[1::2]]
    return [low + (1 - y / SIZE) * (high - low) for y in values]


def frame(page: Page, number: int) -> tuple[float, float]:
    frames = [a for tag, a in page.elements if tag == "div" and a.get("class") == "frame"]
    return float(frames[number]["data-low"]), float(frames[number]["data-high"])


def test_one_run_says_what_it_reached(make_run: RunMaker) -> None:
    folder = make_run("my-run", steps=1000, eval_every=100, lr=0.0025)
    final, metrics = read_run(folder).evaluations[-1], read_run(folder).metrics
    assert final.bits_per_byte is not None
    assert final.low is not None
    assert final.high is not None
    text = page_of(folder).text
    for said in (
        "my-run",
        "byte_lm_1024",
        "finished",
        "All 1000 steps were taken.",
        "started 2025-11-20 18:03 UTC",
        f"{final.bits_per_byte:.3f}",
        f"95 % interval {final.low:.3f}–{final.high:.3f}, split valid, 2 MB scored, step 1,000",
        "parameters 5.64 M",
        "bytes seen 16.4 MB",
        f"training time {int(metrics[-1].seconds or 0) // 60} min",
        "throughput 4",
        "batch 64 16.4 kB a step",
        "peak rate 0.0025",
        "precision fp32",
        "No step was skipped",
    ):
        assert said in text, said


def test_baselines_stand_beside_the_run_better_or_worse(make_run: RunMaker) -> None:
    folder = make_run(steps=200, eval_every=100)
    final = read_run(folder).evaluations[-1].bits_per_byte
    assert final is not None
    page = page_of(folder)
    for name, value in (("order-0 entropy", "4.591"), ("gzip -9", "3.015"), ("xz -9e", "2.247")):
        assert f"{name} {value}" in page.text
    assert final > 2.2467
    assert f"The run needs {100 * (final / 2.2467 - 1):.1f} % more bits than xz -9e" in page.text
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "baselines": [{"name": "gzip", "bits_per_byte": 9}]}))
    assert f"The run needs {100 * (1 - final / 9):.1f} % fewer bits than gzip" in page_of(folder).text


def test_the_page_needs_nothing_from_outside(make_run: RunMaker) -> None:
    runs = [make_run("a", steps=300), make_run("b", steps=300, precision="fp16")]
    file = write_report(runs, runs[0].parent / "page.html")
    page, source = Page(file), file.read_text()
    assert not [(tag, a) for tag, a in page.elements if {"src", "href", "srcset", "action"} & a.keys()]
    assert not [tag for tag, _ in page.elements if tag in ("link", "img", "iframe", "object", "embed")]
    assert not re.search(r"@import|url\(|https?://|\bfetch\(|XMLHttpRequest|\bimport\(", source)
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert [tag for tag, _ in page.elements].count("script") == 1


def test_every_panel_is_drawn_against_bytes_steps_and_time(make_run: RunMaker) -> None:
    folder = make_run(steps=1000, eval_every=100)
    page, last = page_of(folder), read_run(folder).metrics[-1]
    assert page.panels() == [
        "Bits per byte",
        "Held-out bits per byte, close up",
        "Learning rate",
        "Throughput",
        "Gradient norm",
        "Clipped steps",
    ]
    for title in page.panels():
        for axis in ("bytes seen (MB)", "steps", "training time (minutes)"):
            assert page.paths(title, axis), (title, axis)
    ends = {a["data-unit"]: float(a["data-high"]) for tag, a in page.elements if "data-unit" in a}
    assert last.tokens is not None
    assert last.seconds is not None
    expected = {"MB": last.tokens / 1e6, "steps": 1000.0, "min": last.seconds / 60}
    assert ends == pytest.approx({unit: 1.015 * value for unit, value in expected.items()})


def test_curves_show_the_logged_values(make_run: RunMaker) -> None:
    folder = make_run(steps=1000, eval_every=100)
    record, page = read_run(folder), page_of(folder)
    low, high = frame(page, 0)
    by_kind = {path["class"].split()[0]: path for path in page.paths("Bits per byte", "steps")}
    raw = heights(by_kind["raw"], low, high)
    assert raw == pytest.approx([m.bits_per_byte for m in record.metrics], abs=(high - low) / SIZE)
    dots = heights(by_kind["dot"], low, high)
    assert dots == pytest.approx([e.bits_per_byte for e in record.evaluations], abs=(high - low) / SIZE)
    smooth = heights(by_kind["curve"], low, high)
    tail = [m.bits_per_byte for m in record.metrics[-3:] if m.bits_per_byte is not None]
    assert smooth[-1] == pytest.approx(sum(tail) / 3, abs=2 * (high - low) / SIZE)
    assert by_kind["curve"]["data-label"] == "training"
    assert by_kind["dot"]["data-label"] == "held-out (valid)"
    assert by_kind["bar"]["d"].count("V") == len(record.evaluations)


def test_a_start_above_the_frame_is_said(make_run: RunMaker) -> None:
    folder = make_run(steps=2000)
    first = read_run(folder).metrics[0].bits_per_byte
    assert f"Training begins above the frame, at {first:.3f}." in page_of(folder).text


def test_fp16_shows_skipped_steps_and_the_loss_scale(make_run: RunMaker) -> None:
    folder = make_run(steps=2000, precision="fp16", seed=3)
    skipped = read_run(folder).metrics[-1].skipped
    assert skipped is not None
    assert skipped > 0
    page = page_of(folder)
    assert page.panels()[-2:] == ["Skipped steps", "Loss scale"]
    (stairs,) = page.paths("Skipped steps", "steps")
    assert heights(stairs, *frame(page, 6))[-1] == pytest.approx(skipped, abs=0.01)
    assert f"{skipped:.0f} skipped" in page.text
    assert "No step was skipped" not in page.text


def test_several_runs_are_compared_in_one_table(make_run: RunMaker) -> None:
    runs = [
        make_run("a", steps=600),
        make_run("b", steps=300, lanes=128, lr=0.01),
        make_run("c", steps=90, ended=False),
    ]
    page = page_of(*runs)
    rows = [row for row in page.rows if len(row) == 11]
    assert [" ".join(row[0].split()) for row in rows] == ["run", "afinished", "bfinished", "cunfinished"]
    final = read_run(runs[1]).summary
    assert final is not None
    by_head = {re.sub("(bits/byte|best|batch).*", r"\1", head): cell for head, cell in zip(*rows[:2], strict=True)}
    assert by_head["recipe"] == "byte_lm_1024"
    assert by_head["bytes seen"] == "9.83 MB"
    assert [row[8:] for row in rows[1:]] == [
        ["64 16.4 kB", "0.002", "fp32"],
        ["128 32.8 kB", "0.01", "fp32"],
        ["64 16.4 kB", "0.002", "fp32"],
    ]
    assert "3 runs compared" in page.text
    labels = {p["data-label"] for p in page.paths("Bits per byte", "bytes seen") if "data-label" in p}
    assert {"a training", "b training", "c training"} <= labels
    assert [a["id"] for tag, a in page.elements if a.get("type") == "checkbox"] == ["run-0", "run-1", "run-2"]


def test_differing_settings_come_first_and_are_marked(make_run: RunMaker) -> None:
    runs = [make_run("a", steps=60), make_run("b", steps=60, lr=0.01, run={"notes": ["x", 1]})]
    page = page_of(*runs)
    names = [row[0] for row in page.rows]
    first = names.index("optimizer.lr")
    assert page.rows[first] == ["optimizer.lr", "0.002", "0.01"]
    assert page.rows[names.index("notes")] == ["notes", "not set", '["x", 1]']
    assert max(first, names.index("notes")) < names.index("optimizer.betas")
    assert page.rows[names.index("optimizer.betas")] == ["optimizer.betas", "[0.9, 0.999]"]
    assert [a.get("class") for tag, a in page.elements if tag == "tr"].count("differs") == 2
    assert page.rows[names.index("torch")] == ["torch", "2.13.0"]


def test_the_command_to_run_it_again_is_quoted_for_a_shell(make_run: RunMaker) -> None:
    folder = make_run("my run", steps=20)
    commands = page_of(folder).pre[-2:]
    assert commands[0] == "overnight train byte_lm_1024 --data 'corpora/my reviews' --lr 0.002"
    assert commands[1] == f"overnight train '{folder}/run.json'"


def test_the_last_samples_are_shown_as_they_are(make_run: RunMaker) -> None:
    folder = make_run(steps=800, eval_every=100)
    sample = {
        "step": 900,
        "prompt": "<b>&",
        "text": "<b>& then\n\t\x00\x1b[31mred\r\x7f</pre>\u202e",
        "temperature": 0.7,
    }
    with (folder / "samples.jsonl").open("a") as lines:
        lines.write(json.dumps(sample) + "\n")
        lines.write(json.dumps({**sample, "text": "y" * 7000}) + "\n")
    page = page_of(folder)
    assert page.pre[0] == "<b>& then\n\t␀␛[31mred␍␡</pre>\u202e"
    assert page.pre[1] == "<b>&" + "y" * 6000 + " … 1,000 more characters"
    assert "step 900 · temperature 0.7" in page.text
    assert "Earlier in training" in page.text


def test_nothing_in_a_run_becomes_markup(make_run: RunMaker) -> None:
    evil = '<img src=x onerror="alert(1)">\'"&{{ 1234*1001 }}{% raw %}'
    runs = [
        make_run(
            name,
            steps=120,
            eval_every=60,
            recipe=evil,
            overnight=evil,
            started=evil,
            command=["overnight", evil],
            run={evil: evil},
            environment={evil: evil},
            precision=evil,
        )
        for name in ("<img src=x onerror=alert(1)>", "b")
    ]
    for folder in runs:
        scored = {"step": 120, "split": evil, "bits_per_byte": 2.0, "low": 1.9, "high": 2.1, "bytes": 5}
        (folder / "eval.jsonl").write_text(json.dumps(scored) + "\n")
        (folder / "samples.jsonl").write_text(json.dumps({"step": 1, "prompt": evil, "text": evil + evil}) + "\n")
        baselines = [{"name": evil, "bits_per_byte": 3.0}]
        ended = {"state": evil, "reason": evil, "step": 120, "final": scored, "baselines": baselines}
        (folder / "summary.json").write_text(json.dumps(ended))
    for page in (page_of(*runs), page_of(runs[0])):
        assert [tag for tag, _ in page.elements if tag == "img"] == []
        assert [tag for tag, _ in page.elements].count("script") == 1
        assert not [a for _, a in page.elements for key in a if key.startswith("on")]
        assert "<img src=x onerror=alert(1)>" in page.text
        assert page.text.count("{{ 1234*1001 }}") >= 8
        assert "1235234" not in page.text


def test_a_running_run_without_anything_yet(make_run: RunMaker) -> None:
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


def test_a_killed_run_says_what_was_left_out(make_run: RunMaker) -> None:
    folder = make_run(steps=300, ended=False)
    file = folder / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-10])
    page = page_of(folder)
    assert "unfinished" in page.text
    assert "The last line of metrics.jsonl is cut short and was left out." in page.text
    assert "steps 290" in page.text


def test_a_run_of_one_record(make_run: RunMaker) -> None:
    folder = make_run(steps=10, eval_every=10)
    page = page_of(folder)
    assert "Bits per byte" in page.panels()
    kinds = [path["class"].split()[0] for path in page.paths("Bits per byte", "steps")]
    assert kinds == ["bar", "dot", "dot"]


def test_values_that_are_not_finite_break_lines_and_nothing_else(make_run: RunMaker) -> None:
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


def test_a_run_whose_values_are_all_missing(make_run: RunMaker) -> None:
    folder = make_run(steps=20, ended=False)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "bits_per_byte": NaN}\n')
    (folder / "eval.jsonl").write_text('{"step": 2, "split": "valid", "bits_per_byte": null, "low": 1}\n')
    page = page_of(folder)
    assert page.panels() == []
    assert "This run has not been evaluated yet." in page.text


def test_a_run_without_bits_shows_its_loss(make_run: RunMaker) -> None:
    folder = make_run(steps=20, ended=False)
    (folder / "metrics.jsonl").write_text("".join(f'{{"step": {s}, "loss": {9 - s}}}\n' for s in (1, 2, 3)))
    (folder / "eval.jsonl").unlink()
    page = page_of(folder)
    assert page.panels() == ["Training loss"]
    assert [a["id"] for tag, a in page.elements if a.get("type") == "radio"] == ["x-steps"]


def test_long_runs_and_many_runs_stay_small(make_run: RunMaker) -> None:
    assert page_of(make_run("long", steps=60_000, log_every=1, eval_every=100, precision="fp16")).size < 600_000
    many = [make_run(f"many-{i}", steps=3000, log_every=1, eval_every=30, precision="fp16", seed=i) for i in range(12)]
    page = page_of(*many)
    assert page.size < 2_000_000
    assert len([a for tag, a in page.elements if a.get("type") == "checkbox"]) == 12


def test_runs_scored_on_other_bytes_are_not_called_the_same(make_run: RunMaker) -> None:
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


def test_runs_of_one_name_are_told_apart_and_a_run_named_twice_is_shown_once(make_run: RunMaker) -> None:
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
        assert Page(file).size > 10_000
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
