"""What the page says and draws, that it stands alone, and that nothing in a run becomes markup."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from overnight.report import read_run
from overnight.report.curves import SIZE

RunMaker = Callable[..., Path]
PageReader = Callable[..., Any]


def heights(path: dict[str, str], low: float, high: float) -> list[float]:
    """The values that a path shows on an axis from `low` to `high`."""
    values = []
    for stroke in path["d"].replace("h0", "").split("M")[1:]:
        _, y, *deltas = map(int, re.findall(r"-?\d+", stroke))
        values.append(y)
        values += [y := y + down for down in deltas[1::2]]
    return [low + (1 - y / SIZE) * (high - low) for y in values]


def frame(page: Any, number: int) -> tuple[float, float]:
    frames = [a for tag, a in page.elements if tag == "div" and a.get("class") == "frame"]
    return float(frames[number]["data-low"]), float(frames[number]["data-high"])


def test_one_run_says_what_it_reached(make_run: RunMaker, page_of: PageReader) -> None:
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


def test_baselines_stand_beside_the_run_better_or_worse(make_run: RunMaker, page_of: PageReader) -> None:
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


def test_the_page_needs_nothing_from_outside(make_run: RunMaker, page_of: PageReader) -> None:
    runs = [make_run("a", steps=300), make_run("b", steps=300, precision="fp16")]
    page = page_of(*runs)
    assert not [(tag, a) for tag, a in page.elements if {"src", "href", "srcset", "action"} & a.keys()]
    assert not [tag for tag, _ in page.elements if tag in ("link", "img", "iframe", "object", "embed")]
    assert not re.search(r"@import|url\(|https?://|\bfetch\(|XMLHttpRequest|\bimport\(", page.source)
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert [tag for tag, _ in page.elements].count("script") == 1


def test_every_panel_is_drawn_against_bytes_steps_and_time(make_run: RunMaker, page_of: PageReader) -> None:
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


def test_ranks_show_computing_waiting_and_bytes(make_run: RunMaker, page_of: PageReader) -> None:
    folder, names = make_run("four", steps=2000, ranks=4, seed=1), ["Computing and waiting", "Bytes exchanged"]
    page, last = page_of(folder), read_run(folder).metrics[-1]
    assert page.panels()[4:6] == names
    waiting = [path for path in page.paths(names[0], "steps") if path["class"].startswith("curve")]
    assert [path["data-label"] for path in waiting] == ["computing", "waiting"]
    assert last.sent_bytes is not None
    (sent,) = page.paths(names[1], "steps")
    assert heights(sent, *frame(page, 5))[-1] == pytest.approx(last.sent_bytes / 1e6, rel=1e-3)
    both = page_of(folder, make_run("one", steps=300), make_run("two", steps=300, ranks=2))
    kinds = [path["class"].split()[0] for path in both.paths(names[0], "steps")]
    assert sorted(kinds) == ["curve", "curve", "raw", "raw"]


def test_curves_show_the_logged_values(make_run: RunMaker, page_of: PageReader) -> None:
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


def test_a_start_above_the_frame_is_said(make_run: RunMaker, page_of: PageReader) -> None:
    folder = make_run(steps=2000)
    first = read_run(folder).metrics[0].bits_per_byte
    assert f"Training begins above the frame, at {first:.3f}." in page_of(folder).text


def test_fp16_shows_skipped_steps_and_the_loss_scale(make_run: RunMaker, page_of: PageReader) -> None:
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


def test_several_runs_are_compared_in_one_table(make_run: RunMaker, page_of: PageReader) -> None:
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


def test_differing_settings_come_first_and_are_marked(make_run: RunMaker, page_of: PageReader) -> None:
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


def test_the_command_to_run_it_again_is_quoted_for_a_shell(make_run: RunMaker, page_of: PageReader) -> None:
    folder = make_run("my run", steps=20)
    commands = page_of(folder).pre[-2:]
    assert commands[0] == "overnight train byte_lm_1024 --data 'corpora/my reviews' --lr 0.002"
    assert commands[1] == f"overnight train '{folder}/run.json'"


def test_the_last_samples_are_shown_as_they_are(make_run: RunMaker, page_of: PageReader) -> None:
    folder = make_run(steps=800, eval_every=100)
    sample = {
        "step": 900,
        "prompt": "<b>&",
        "text": " then\n\t\x00\x1b[31mred\r\x7f</pre>\u202e",
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


def test_nothing_in_a_run_becomes_markup(make_run: RunMaker, page_of: PageReader) -> None:
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
