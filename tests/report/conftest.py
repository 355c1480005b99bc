"""Run folders made up for the tests: the format of docs/run-folder.md with curves shaped like real ones."""

import json
import math
import random
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from overnight.report import write_report

BASELINES = [
    {"name": "order-0 entropy", "bits_per_byte": 4.5912},
    {"name": "gzip -9", "bits_per_byte": 3.0148},
    {"name": "xz -9e", "bits_per_byte": 2.2467},
]
TEXTS = (
    "the film is a good one , and the performances are all very good . i was surprised to see how little of\n"
    "the book was left out , but the ending is a mess .\n\nI would have liked more of the first half & less <br />.",
    "it was one of those movies where nothing happens and you do not mind . 7/10 .",
)

RunMaker = Callable[..., Path]

VOID = {"meta", "input", "br", "img", "link", "hr"}


def write_run(
    folder: Path,
    *,
    steps: int = 4000,
    log_every: int = 10,
    eval_every: int = 400,
    lanes: int = 64,
    seq_len: int = 256,
    lr: float = 2e-3,
    floor: float = 1.62,
    precision: str = "fp32",
    seed: int = 0,
    ended: bool = True,
    ranks: int = 1,
    run: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
    **head: Any,
) -> Path:
    """Write a run of `steps` that decays from 8 bits towards `floor`; `ended=False` leaves no summary."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    per_step = lanes * seq_len
    settings: dict[str, Any] = {
        "seed": seed,
        "precision": precision,
        "global_batch_size": lanes,
        "seq_len": seq_len,
        "model": {"call": "overnight.models.byte_lm.ByteLM", "kwargs": {"hidden_size": 1024, "embedding_size": 64}},
        "optimizer": {"call": "torch.optim.AdamW", "kwargs": {"lr": lr, "betas": [0.9, 0.999], "weight_decay": 0.0}},
        "schedule": {"call": "overnight.schedule.linear", "kwargs": {"warmup_samples": 20 * lanes}},
        "clip": {"call": "overnight.train.clip", "kwargs": {"max_norm": 1.0}},
        **(run or {}),
    }
    start = {
        "format": "overnight-run/1",
        "overnight": "0.1.0",
        "recipe": "byte_lm_1024",
        "command": [
            "/opt/venv/bin/overnight",
            "train",
            "byte_lm_1024",
            "--data",
            "corpora/my reviews",
            "--lr",
            str(lr),
        ],
        "started": "2025-11-20T18:03:11+00:00",
        "run": settings,
        "derived": {"parameters": 5_642_496, "tokens_per_step": per_step, "total_steps": steps},
        "environment": {"python": "3.11.7", "torch": "2.13.0", "device": "cpu", "threads": 2, **(environment or {})},
        **head,
    }
    (folder / "run.json").write_text(json.dumps(start, indent=2))
    rate, clock, skipped, scored = 41_000 * rng.uniform(0.95, 1.05), 0.0, 0, []
    with (folder / "metrics.jsonl").open("w") as metrics, (folder / "samples.jsonl").open("w") as samples:
        for step in range(log_every, steps + 1, log_every):
            curve = floor + (8.0 - floor) / (1 + step / 18) ** 0.72
            bits = curve + rng.gauss(0, 0.035)
            speed = rate * (rng.uniform(0.93, 1.03) if rng.random() > 0.02 else rng.uniform(0.5, 0.8))
            clock += log_every * per_step / speed
            norm = 0.35 + 6.0 / (1 + step / 25) + rng.lognormvariate(-2.2, 0.8)
            skipped += rng.random() < 2 / (steps / log_every) and precision == "fp16"
            record: dict[str, Any] = {
                "step": step,
                "samples": step * lanes,
                "tokens": step * per_step,
                "seconds": clock,
                "loss": bits * math.log(2),
                "bits_per_byte": bits,
                "lr": lr * min(1.0, step / 20) * max(0.0, 1 - step / steps),
                "grad_norm": norm,
                "clipped": min(1.0, max(0.0, rng.gauss(norm - 0.4, 0.1))),
                "skipped": skipped,
                "tokens_per_s": speed,
                "memory_bytes": 1_000_000,
            }
            if ranks > 1:
                whole = per_step / speed
                record["sent_bytes"] = 2 * (ranks - 1) / ranks * 4 * 5_642_496 * rng.uniform(0.5, 0.52)
                record["waiting_seconds"] = whole * rng.uniform(0.3, 0.4)
                record["computing_seconds"] = whole - record["waiting_seconds"]
            if precision == "fp16":
                record["loss_scale"] = 2.0 ** min(20, 12 + step * 8 // steps)
            metrics.write(json.dumps(record) + "\n")
            if step % eval_every == 0:
                held_out = curve + 0.02
                place = {key: record[key] for key in ("step", "samples", "tokens", "seconds")}
                interval = {"bits_per_byte": held_out, "low": held_out - 0.013, "high": held_out + 0.013}
                scored.append({**place, "split": "valid", **interval, "bytes": 2_000_000})
                text = TEXTS[len(scored) % 2] if step > steps // 4 else "th e  aeie ont   the a so the s"
                line = {"step": step, "prompt": "I thought ", "text": text, "temperature": 0.8}
                samples.write(json.dumps(line) + "\n")
    (folder / "eval.jsonl").write_text("".join(json.dumps(record) + "\n" for record in scored))
    if ended:
        best = min(scored, key=lambda item: item["bits_per_byte"], default=None)
        summary = {
            "state": "finished",
            "reason": f"All {steps} steps were taken.",
            "step": steps,
            "samples": steps * lanes,
            "tokens": steps * per_step,
            "seconds": clock,
            "best": best and {"step": best["step"], "bits_per_byte": best["bits_per_byte"]},
            "final": scored[-1] if scored else None,
            "baselines": BASELINES,
        }
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def make_run(tmp_path: Path) -> RunMaker:
    """`make_run("name", …)` writes a run folder of that name below the test's own folder."""

    def make(name: str = "run", **settings: Any) -> Path:
        return write_run(tmp_path / name, **settings)

    return make


class Page(HTMLParser):
    """A page taken apart: its text, its elements with attributes, and the text of cells; it must be balanced."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.size = file.stat().st_size
        self.source = file.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.pre: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(self.source)
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


@pytest.fixture
def page_of(tmp_path: Path) -> Callable[..., Page]:
    """`page_of(run, …)` writes the page of these runs and takes it apart."""

    def take_apart(*runs: Path) -> Page:
        return Page(write_report(runs, tmp_path / "page.html"))

    return take_apart
