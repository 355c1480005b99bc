"""Reading run folders: whole, unfinished, damaged, foreign."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from overnight.errors import UserError
from overnight.report import read_run
from overnight.report.facts import facts_of, headline_evaluations

RunMaker = Callable[..., Path]


def edit_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def append(file: Path, *records: object) -> None:
    with file.open("a") as lines:
        lines.writelines(json.dumps(record) + "\n" for record in records)


def test_a_whole_run_is_read_as_written(make_run: RunMaker) -> None:
    folder = make_run(steps=200, log_every=10, eval_every=50)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    record = read_run(folder)
    assert record.recipe == "byte_lm_1024"
    assert record.command[1:3] == ("train", "byte_lm_1024")
    assert [metric.step for metric in record.metrics] == list(range(10, 201, 10))
    assert record.metrics[3].bits_per_byte == lines[3]["bits_per_byte"]
    assert record.metrics[3].tokens == 40 * 64 * 256
    assert [e.step for e in record.evaluations] == [50, 100, 150, 200]
    assert record.samples[-1].prompt == "I thought "
    assert record.summary is not None
    assert record.summary.final == record.evaluations[-1]
    assert [b.name for b in record.summary.baselines] == ["order-0 entropy", "gzip -9", "xz -9e"]
    assert record.problems == ()


def test_the_path_of_run_json_names_its_folder(make_run: RunMaker) -> None:
    folder = make_run(steps=50)
    assert read_run(folder / "run.json").path == folder


def test_a_line_cut_short_is_left_out_and_said(make_run: RunMaker) -> None:
    folder = make_run(steps=200, ended=False)
    file = folder / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-40])
    record = read_run(folder)
    assert [metric.step for metric in record.metrics] == list(range(10, 200, 10))
    assert record.problems == ("The last line of metrics.jsonl is cut short and was left out.",)


def test_unreadable_lines_in_the_middle_are_left_out_and_numbered(make_run: RunMaker) -> None:
    folder = make_run(steps=50)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    lines[1] = lines[1][:30] + lines[2]
    lines[3] = '["not", "an", "object"]'
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    record = read_run(folder)
    assert [metric.step for metric in record.metrics] == [10, 30, 50]
    assert record.problems == ("2 unreadable line(s) of metrics.jsonl were left out (line 2, 4).",)


def test_values_that_are_no_finite_numbers_become_none(make_run: RunMaker) -> None:
    folder = make_run(steps=20)
    values = {"loss": math.nan, "bits_per_byte": math.inf, "lr": None, "grad_norm": "NaN", "clipped": True}
    append(folder / "metrics.jsonl", {"step": 30, "seconds": 10**400, **values})
    last = read_run(folder).metrics[-1]
    assert last.step == 30
    assert (last.loss, last.bits_per_byte, last.lr, last.grad_norm, last.clipped, last.seconds) == (None,) * 6


def test_missing_files_are_empty(make_run: RunMaker) -> None:
    folder = make_run(steps=50, ended=False)
    for name in ("metrics.jsonl", "eval.jsonl", "samples.jsonl"):
        (folder / name).unlink()
    record = read_run(folder)
    assert (record.metrics, record.evaluations, record.samples, record.summary) == ((), (), (), None)
    assert record.problems == ()
    assert facts_of(record).state == "unfinished"


def test_steps_taken_again_after_a_restart_replace_the_first_taking(make_run: RunMaker) -> None:
    folder = make_run(steps=100)
    append(folder / "metrics.jsonl", {"step": 75, "loss": 2.0}, {"step": 85, "loss": 1.5})
    metrics = read_run(folder).metrics
    assert [metric.step for metric in metrics] == [10, 20, 30, 40, 50, 60, 70, 75, 85]
    assert metrics[-1].loss == 1.5


def test_an_evaluation_made_again_replaces_the_first(make_run: RunMaker) -> None:
    folder = make_run(steps=100, eval_every=50)
    append(
        folder / "eval.jsonl",
        {"step": 50, "split": "test", "bits_per_byte": 9.0},
        {"step": 50, "split": "valid", "bits_per_byte": 2.5},
    )
    evaluations = read_run(folder).evaluations
    assert [(e.step, e.split) for e in evaluations] == [(50, "valid"), (50, "test"), (100, "valid")]
    assert evaluations[0].bits_per_byte == 2.5


def test_halves_of_surrogate_pairs_become_writable(make_run: RunMaker) -> None:
    folder = make_run(steps=10)
    (folder / "samples.jsonl").write_text('{"step": 1, "prompt": "", "text": "a\\ud83d\\ude00b\\ud800c", "x": 1}\n')
    assert read_run(folder).samples[0].text == "a😀b\ufffdc"


def test_facts_of_a_finished_run(make_run: RunMaker) -> None:
    record = read_run(make_run(steps=1000, eval_every=100, lr=0.004))
    facts = facts_of(record)
    last = record.metrics[-1]
    assert facts.state == "finished"
    assert facts.final == record.evaluations[-1]
    assert facts.best is not None
    assert facts.best.bits_per_byte == min(e.bits_per_byte for e in record.evaluations if e.bits_per_byte)
    assert facts.best.low is not None
    assert (facts.parameters, facts.steps, facts.batch, facts.lr) == (5_642_496, 1000, 64, 0.004)
    assert facts.bytes_seen == last.tokens == 1000 * 64 * 256
    assert facts.bytes_per_s == pytest.approx(last.tokens / last.seconds)  # type: ignore[operator]
    assert facts.bytes_per_step == 64 * 256
    assert (facts.precision, facts.skipped) == ("fp32", 0)


def test_what_was_resolved_stands_before_what_was_asked(make_run: RunMaker) -> None:
    folder = make_run(steps=20, run={"precision": "auto"}, environment={"precision": "bf16"})
    assert facts_of(read_run(folder)).precision == "bf16"


def test_facts_of_a_running_run_come_from_its_last_lines(make_run: RunMaker) -> None:
    record = read_run(make_run(steps=1000, eval_every=100, ended=False))
    facts = facts_of(record)
    assert facts.state == "unfinished"
    assert facts.steps == 1000
    assert facts.final == record.evaluations[-1]
    assert facts.baselines == ()


def test_a_summary_older_than_the_log_is_not_the_end(make_run: RunMaker) -> None:
    folder = make_run(steps=100)
    append(folder / "metrics.jsonl", {"step": 110, "tokens": 5_000_000, "seconds": 60.0})
    facts = facts_of(read_run(folder))
    assert (facts.state, facts.steps, facts.bytes_seen) == ("unfinished", 110, 5_000_000)
    assert len(facts.baselines) == 3


def test_the_headline_split_is_the_one_scored_most_and_not_the_training_text(make_run: RunMaker) -> None:
    folder = make_run(steps=100, eval_every=50)
    append(folder / "eval.jsonl", {"step": 100, "split": "test", "bits_per_byte": 1.0})
    append(folder / "eval.jsonl", *({"step": s, "split": "train", "bits_per_byte": 0.5} for s in (1, 50, 100)))
    assert {e.split for e in headline_evaluations(read_run(folder))} == {"valid"}


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no run at"):
        read_run(tmp_path / "nowhere")


def test_a_file_is_not_a_run(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UserError, match=r"notes\.txt is a file, not a run folder"):
        read_run(tmp_path / "notes.txt")


def test_a_folder_of_runs_names_them(tmp_path: Path, make_run: RunMaker) -> None:
    make_run("b", steps=10)
    make_run("a", steps=10)
    with pytest.raises(UserError, match=r"it has no run\.json\. It holds runs, though: a, b; name those"):
        read_run(tmp_path)


def test_an_unknown_format_says_what_wrote_it(make_run: RunMaker) -> None:
    folder = make_run(steps=10)
    edit_json(folder / "run.json", format="overnight-run/7", overnight="9.9")
    with pytest.raises(UserError, match=r"'overnight-run/7'.*reads 'overnight-run/1'.*9\.9"):
        read_run(folder)
    edit_json(folder / "run.json", format=None)
    with pytest.raises(UserError, match="has the format None"):
        read_run(folder)


@pytest.mark.parametrize("name", ["run.json", "summary.json"])
def test_broken_json_is_named(make_run: RunMaker, name: str) -> None:
    folder = make_run(steps=10)
    (folder / name).write_text('{"format": ')
    with pytest.raises(UserError, match=f"{name} is not valid JSON"):
        read_run(folder)
    (folder / name).write_text("[1]")
    with pytest.raises(UserError, match=f"{name} holds no JSON object"):
        read_run(folder)
