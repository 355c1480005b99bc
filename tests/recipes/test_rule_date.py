"""``--rule date``: a run that begins at the baseline, and an engine that knows it."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from train.adapting import adapting, decisions, metrics
from train.toys import toy

from overnight.cli import main
from overnight.errors import UserError
from overnight.recipes.byte_lm import byte_lm
from overnight.scaling import DATE, Hyperparameters
from overnight.schedule import multistep
from overnight.train.launch import Options, train
from overnight.tune.online import fixing, with_date


def test_the_run_is_the_baselines_with_an_engine(corpus: Path) -> None:
    run = byte_lm(corpus, batch_size=256, rule="date", steps=10)
    plain = byte_lm(corpus, steps=10)
    assert run.optimizer.keywords == plain.optimizer.keywords
    assert run.adapt is not None
    assert run.adapt.func is DATE
    assert run.adapt.keywords["baseline"].keywords == {
        "lr": 5e-3, "global_batch_size": 32, "warmup_samples": 3200, "betas": (0.9, 0.99), "eps": 1e-8, "max_norm": 1.0,
    }  # fmt: skip
    assert (run.global_batch_size, run.micro_batch_size) == (256, 32)
    assert "noise scale" in run.notes[-1]


def test_what_the_user_gives_is_fixed(corpus: Path) -> None:
    run = byte_lm(corpus, batch_size=64, rule="date", steps=10, warmup_steps=5, micro_batch_size=16)
    assert run.adapt is not None
    assert run.adapt.keywords["fixed"] == ("warmup_samples",)
    assert run.adapt.keywords["baseline"].keywords["warmup_samples"] == 320
    assert run.micro_batch_size == 16
    given = byte_lm(corpus, batch_size=64, rule="date", steps=10, lr=0.01, max_norm=0.5)
    assert given.adapt is not None
    assert given.adapt.keywords["fixed"] == ("lr", "max_norm")
    assert (given.adapt.keywords["baseline"].keywords["lr"], given.optimizer.keywords["lr"]) == (0.01, 0.01)
    assert given.adapt.keywords["baseline"].keywords["max_norm"] == 0.5
    assert given.notes[-1].startswith("length (at most twice the budget) and batch follow the noise scale")
    assert given.notes[-1].endswith("(DATE); as given: lr, max_norm")


def test_settings_of_the_command_line_are_fixed(corpus: Path) -> None:
    run = byte_lm(corpus, batch_size=64, rule="date", steps=10)
    assert fixing(run, ["model.hidden_size=16"]) is run
    said = ["max_norm=0.25", "optimizer.lr=0.02", "schedule.warmup_samples=128", "optimizer.betas=(0.8,0.9)"]
    for one in said:
        run = run.with_setting(one)
    fixed = fixing(run, said)
    assert fixed.adapt is not None
    assert fixed.adapt.keywords["fixed"] == ("betas", "lr", "max_norm", "warmup_samples")
    known = fixed.adapt.keywords["baseline"].keywords
    assert (known["max_norm"], known["lr"], known["warmup_samples"]) == (0.25, 0.02, 128)
    again = fixing(fixed.with_setting("max_norm=None"), ["max_norm=None"])
    assert again.adapt is not None
    assert "max_norm" not in again.adapt.keywords["baseline"].keywords


def test_a_clip_that_is_set_is_what_is_clipped_to(corpus: Path, tmp_path: Path) -> None:
    more = [
        "--batch-size",
        "64",
        "--length",
        "8",
        "--steps",
        "4",
        "--evaluations",
        "0",
        "--set",
        "model.hidden_size=16",
    ]
    ends = []
    for name, said in (("plain", []), ("clipped", ["--set", "max_norm=0.001"])):
        out = tmp_path / name
        assert main(["train", "byte-lm", "--data", str(corpus), "--rule", "date", *more, *said, "--out", str(out)]) == 0
        ends.append(json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["loss"])
        assert all("max_norm" not in line["numbers"] for line in decisions(out)) or name == "plain"
    assert ends[0] != ends[1]


def test_milestones_stay_where_they_are_in_the_run(tmp_path: Path) -> None:
    run = adapting({"measure": False}, steps=40)._with("schedule", partial(multistep, milestones=(160,), gamma=0.1))
    train(run, tmp_path / "run", Options(quiet=True))
    rates = [line["lr"] for line in metrics(tmp_path / "run")]
    # batch 8 of baseline 2: sample 160 is that of the 21st step, whatever the warm-up of 4 steps
    assert rates[19] == pytest.approx(0.04)
    assert rates[20] == pytest.approx(0.004)


@pytest.mark.parametrize(("largest", "base", "expected"), [(None, 32, 32), (64, 32, 32), (16, 32, 16), (100, 300, 80)])
def test_a_micro_batch_fits_and_is_no_smaller_than_the_baseline(largest: int | None, base: int, expected: int) -> None:
    run = with_date(toy(global_batch_size=512 if base < 300 else 320), Hyperparameters(0.05, base), largest=largest)
    assert run.micro_batch_size == expected


def test_a_run_in_minutes_is_not_said_to_lengthen() -> None:
    minutes = replace(toy(global_batch_size=16), steps=None, minutes=1.0)
    assert with_date(minutes, Hyperparameters(0.05, 8)).notes[-1].startswith("rate and batch follow")
    assert "at most twice the budget" in with_date(toy(global_batch_size=16), Hyperparameters(0.05, 8)).notes[-1]


def test_a_smaller_batch_is_refused(corpus: Path) -> None:
    with pytest.raises(UserError, match="goes up from a batch of 32, not down to 16"):
        byte_lm(corpus, batch_size=16, rule="date", steps=10)


def test_it_trains(corpus: Path, tmp_path: Path) -> None:
    run = byte_lm(corpus, batch_size=64, length=8, rule="date", steps=4, evaluations=1)
    summary = train(run.with_setting("model.hidden_size=16"), tmp_path / "run", Options(quiet=True))
    assert summary["state"] == "finished"
    assert decisions(tmp_path / "run")[0]["what"] == "lr"
