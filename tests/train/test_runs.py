"""Whole runs: again from their run.json, with other optimizers and precisions, and what they leave behind."""

import builtins
import itertools
import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.corpus import write_corpus
from train.launching import arguments, lines, same_end, tiny
from train.toys import toy

from overnight.cli import main
from overnight.errors import UserError
from overnight.recipes import find
from overnight.train.checkpoint import load_checkpoint, load_model
from overnight.train.launch import Options, train

QUIET = Options(quiet=True)
RESUME = Options(quiet=True, resume=True)


def last(folder: Path) -> Path:
    return sorted((folder / "checkpoints").glob("0*"))[-1]


def test_a_run_json_is_that_run_again(corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first, again = tmp_path / "first", tmp_path / "again"
    extra = ["--optimizer", "adamw", "--set", "optimizer.weight_decay=0.3", "--schedule", "cosine", "--seed", "3"]
    assert main([*arguments(corpus, first, micro_batch_size=2), *extra]) == 0
    assert main(["train", str(first / "run.json"), "--out", str(again)]) == 0
    same_end(again, first)
    one, two = (json.loads((folder / "run.json").read_text()) for folder in (first, again))
    assert one["run"] == two["run"]
    assert one["run"]["optimizer"]["call"] == "torch.optim.AdamW"
    assert one["run"]["optimizer"]["kwargs"]["weight_decay"] == 0.3
    assert one["command"][:3] == ["overnight", "train", "byte-lm"]
    assert two["command"] == ["overnight", "train", str(first / "run.json"), "--out", str(again)]
    other = tmp_path / "other"
    assert main(["train", str(first / "run.json"), "--out", str(other), "--set", "seed=4"]) == 0
    weights = [load_checkpoint(last(folder)).model["output.weight"] for folder in (first, other)]
    assert not torch.equal(*weights)


def test_a_run_folder_is_what_the_page_says(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(tiny(corpus), out, QUIET)
    assert {path.name for path in out.iterdir()} == {
        *("run.json", "metrics.jsonl", "eval.jsonl", "samples.jsonl", "summary.json", "checkpoints")
    }
    run = json.loads((out / "run.json").read_text())
    assert run["format"] == "overnight-run/1"
    assert {"overnight", "recipe", "command", "started", "run", "derived", "environment"} <= run.keys()
    assert run["derived"]["parameters"] == sum(p.numel() for p in load_model(out).model.parameters())
    assert run["derived"]["tokens_per_step"] == 4 * 8
    (first, *_, final) = lines(out / "metrics.jsonl")
    keys = ["step", "samples", "tokens", "seconds", "loss", "bits_per_byte", "lr", "grad_norm", "clipped", "skipped"]
    assert list(first) == [*keys, "tokens_per_s"]
    assert (final["step"], final["samples"], final["tokens"]) == (12, 48, 384)
    assert first["bits_per_byte"] == pytest.approx(first["loss"] / math.log(2))
    assert first["bits_per_byte"] == pytest.approx(8, abs=0.2)
    assert [line["step"] for line in lines(out / "samples.jsonl")] == [6, 12]
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["state"], summary["step"], summary["tokens"]) == ("finished", 12, 384)
    assert {item["name"] for item in summary["baselines"]} == {"order-0 entropy", "gzip -9", "xz -9e"}
    assert summary["best"]["bits_per_byte"] == min(line["bits_per_byte"] for line in lines(out / "eval.jsonl"))


def test_logging_lines_are_means_over_the_steps_since_the_last(corpus: Path, tmp_path: Path) -> None:
    train(tiny(corpus), tmp_path / "each", QUIET)
    train(tiny(corpus, log_every=5), tmp_path / "five", QUIET)
    each, five = (lines(tmp_path / name / "metrics.jsonl") for name in ("each", "five"))
    assert [line["step"] for line in five] == [5, 10, 12]
    for first, line in zip((0, 5, 10), five, strict=True):
        steps = each[first : line["step"]]
        for name in ("loss", "grad_norm", "clipped"):
            assert line[name] == pytest.approx(sum(step[name] for step in steps) / len(steps))


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adagrad", "NAdam", "Adafactor"])
def test_any_optimizer_of_torch_and_its_resume(corpus: Path, tmp_path: Path, name: str) -> None:
    more = {"optimizer__momentum": 0.9} if name == "SGD" else {}
    run = tiny(corpus, optimizer=f"torch.optim.{name}", checkpoint_steps=5, keep_last=9, **more)
    train(run, tmp_path / "whole", QUIET)
    before = load_checkpoint(tmp_path / "whole" / "checkpoints" / "00000005").model
    after = load_checkpoint(last(tmp_path / "whole")).model
    assert not torch.equal(before["output.weight"], after["output.weight"])
    train(run, tmp_path / "resumed", QUIET)
    train(run, tmp_path / "resumed", Options(quiet=True, resume=True, checkpoint="5"))
    same_end(tmp_path / "resumed", tmp_path / "whole")


def test_momentum_by_setting_is_momentum(corpus: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    more = ["--optimizer", "torch.optim.SGD", "--set", "optimizer.momentum=0.9", "--lr", "0.01"]
    assert main([*arguments(corpus, out), *more]) == 0
    assert any(name.endswith("momentum_buffer") for name in load_checkpoint(last(out)).optimizer)
    assert json.loads((out / "run.json").read_text())["run"]["optimizer"] == {
        "call": "torch.optim.SGD",
        "kwargs": {"lr": 0.01, "momentum": 0.9},
    }


def test_fp16_scales_its_loss_and_goes_on_with_the_scale(corpus: Path, tmp_path: Path) -> None:
    """A scale that overflows at once is halved until it does not; those steps are skipped and counted."""
    run = tiny(corpus, precision="fp16", steps=40, checkpoint_steps=20, keep_last=9, optimizer__lr=0.02)
    train(run, tmp_path / "whole", QUIET)
    read = lines(tmp_path / "whole" / "metrics.jsonl")
    scales = [line["loss_scale"] for line in read]
    assert scales[0] <= 65_536
    for before, line in itertools.pairwise(read):
        skipped = line["skipped"] - before["skipped"]
        assert line["loss_scale"] == before["loss_scale"] * 0.5**skipped
    assert read[-1]["loss"] < read[0]["loss"] - 0.5
    state = load_checkpoint(tmp_path / "whole" / "checkpoints" / "00000020").state
    assert state["scaler"]["scale"] == scales[19]
    assert state["scaler"]["_growth_tracker"] == 20 - read[19]["skipped"]
    train(run, tmp_path / "resumed", QUIET)
    train(run, tmp_path / "resumed", Options(quiet=True, resume=True, checkpoint="20"))
    same_end(tmp_path / "resumed", tmp_path / "whole")


def test_fp16_that_overflows_is_skipped_until_the_scale_fits(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = torch.amp.GradScaler

    def high(device: str, init_scale: float, **how: Any) -> torch.amp.GradScaler:
        return make(device, init_scale=2.0**24, **how)

    monkeypatch.setattr(torch.amp, "GradScaler", high)
    run = tiny(corpus, precision="fp16", steps=20, max_skipped=15)
    train(run, tmp_path / "run", QUIET)
    read = lines(tmp_path / "run" / "metrics.jsonl")
    skipped = read[-1]["skipped"]
    assert 0 < skipped < 12
    assert [line["skipped"] for line in read] == [*range(1, skipped + 1), *[skipped] * (20 - skipped)]
    assert read[-1]["loss_scale"] == 2.0 ** (24 - skipped)
    assert all(line["loss"] is None for line in read[:skipped])
    # four steps of warm-up, counted from the first step that was made
    assert read[skipped]["lr"] == pytest.approx(run.optimizer.keywords["lr"] / 4)
    assert torch.isfinite(load_checkpoint(last(tmp_path / "run")).carry["c"]).all()
    with pytest.raises(UserError, match="2 steps in a row gave a loss or gradient that is not finite"):
        train(run.with_setting("max_skipped=2"), tmp_path / "other", QUIET)


def test_an_absurd_rate_stops_with_what_to_try(tmp_path: Path) -> None:
    run = toy(optimizer__lr=1e200, steps=30, max_skipped=4, checkpoint_steps=1)
    with pytest.raises(UserError, match=r"4 steps in a row .*\. Try a lower rate, a longer warm-up"):
        train(run, tmp_path / "run", QUIET)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["state"] == "failed"


def test_tensorboard_files(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    options = Options(quiet=True, tensorboard=True)
    train(tiny(corpus, checkpoint_steps=4, keep_last=9), out, options)
    train(tiny(corpus, steps=14), out, Options(quiet=True, tensorboard=True, resume=True, checkpoint="8"))
    found = EventAccumulator(str(out / "tensorboard")).Reload()
    losses = [(event.step, event.value) for event in found.Scalars("train/loss")]
    expected = [(line["step"], line["loss"]) for line in lines(out / "metrics.jsonl")]
    assert [step for step, _ in losses] == list(range(1, 15))
    assert [value for _, value in losses] == pytest.approx([value for _, value in expected], rel=1e-6)
    assert [event.step for event in found.Scalars("valid/bits_per_byte")] == [
        line["step"] for line in lines(out / "eval.jsonl")
    ]


def test_tensorboard_that_is_not_installed(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **how: Any) -> Any:
        if name.startswith(("tensorboard", "torch.utils.tensorboard")):
            raise ImportError(name)
        return real(name, *arguments, **how)

    for name in [name for name in sys.modules if name.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"needs the package tensorboard\. Install it with: pip install 'overnight"):
        train(tiny(corpus), tmp_path / "run", Options(quiet=True, tensorboard=True))
    assert not (tmp_path / "run").exists()


def test_a_corpus_without_a_held_out_split(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus", train=[[b"once upon a time, " * 100]])
    run = find("byte-lm")(corpus, batch_size=4, length=8, steps=3).with_setting("model.hidden_size=16")
    summary = train(run, tmp_path / "run", QUIET)
    assert (summary["state"], summary["final"], summary["baselines"]) == ("finished", None, [])
    assert load_model(tmp_path / "run").step == 3
    train(run.with_setting("steps=5"), tmp_path / "run", RESUME)
    assert load_model(tmp_path / "run").step == 5
