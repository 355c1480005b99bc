"""MNIST-LSTM: its one dial, what it refuses, and a run from training to evaluation and report."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.digits import write_digits

from overnight.cli import main
from overnight.data.images.memory import read_images
from overnight.errors import UserError
from overnight.evaluate.images import evaluate_images
from overnight.recipes.mnist_lstm import BATCH, TUNED, WARMUP_STEPS, mnist_lstm
from overnight.train.build import build
from overnight.train.checkpoint import load_checkpoint, load_model
from overnight.train.distributed import World
from overnight.train.launch import Options, train
from overnight.train.run import Run

QUIET = Options(device="cpu", quiet=True)
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits") / "mnist")


def small(run: Run, **changes: Any) -> Run:
    run = run.with_setting("model.hidden_size=16").with_setting("threads=1")
    return replace(run, precision="fp32", **changes)


@pytest.mark.parametrize("optimizer", TUNED)
def test_the_dial(digits: Path, optimizer: str) -> None:
    """LEGW: √k times the rate, the same number of warm-up steps."""
    for k, lr in ((1, 1.0), (4, 2.0), (64, 8.0)):
        run = mnist_lstm(digits, optimizer=optimizer, batch_size=k * BATCH, steps=200)
        run.check()
        assert run.optimizer.keywords["lr"] == pytest.approx(lr * TUNED[optimizer].lr)
        assert run.schedule.keywords["warmup_samples"] == WARMUP_STEPS * k * BATCH
        assert bool(run.notes) == (k > 1)
        again = Run.from_json(json.loads(json.dumps(run.to_json())))
        assert again.to_json() == run.to_json()
    assert mnist_lstm(digits, optimizer=optimizer, batch_size=512, rule="linear", steps=200).optimizer.keywords[
        "lr"
    ] == pytest.approx(4 * TUNED[optimizer].lr)
    run = mnist_lstm(digits, optimizer=optimizer, batch_size=40, steps=9, lr=0.5, warmup_steps=3)
    assert (run.optimizer.keywords["lr"], run.schedule.keywords["warmup_samples"]) == (0.5, 120)
    build(small(run), ALONE)


def test_the_whole_set_in_one_batch(digits: Path) -> None:
    run = mnist_lstm(digits, batch_size=120, warmup_steps=5)
    parts = build(small(run), ALONE)
    assert parts.data.steps_per_epoch == 1
    assert sorted(parts.data.indices(7).tolist()) == list(range(120))
    with pytest.raises(UserError, match="The largest batch that fits is 120"):
        build(small(mnist_lstm(digits, batch_size=121, steps=99)), ALONE)


def test_date_is_not_refused_for_a_warm_up_that_it_cuts(digits: Path) -> None:
    run = mnist_lstm(digits, batch_size=256, rule="date", steps=10)
    assert run.adapt is not None
    assert "fixed" not in run.adapt.keywords
    given = mnist_lstm(digits, batch_size=256, rule="date", steps=10, max_norm=0.5, lr=0.3).adapt
    assert given is not None
    assert given.keywords["fixed"] == ("lr", "max_norm")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": "momentun"}, "no optimizer 'momentun'. Did you mean momentum"),
        ({"optimizer": "torch.optim.RMSprop"}, "no tuned rate of torch.optim.RMSprop"),
        ({"batch_size": 0}, "A batch of 0 cannot work"),
        ({"lr": 0.0}, "A rate of 0 cannot work"),
        ({"warmup_steps": -1}, "--warmup-steps -1"),
        ({"rule": "adam_sde"}, "adam_sde is for Adam's family"),
        ({"batch_size": 100, "epochs": 10}, r"A warm-up of 6,400 images is longer than the run of 1,200"),
        (
            {"batch_size": 240, "epochs": 100},
            r"LEGW keeps its 64 steps .* this run has 50\. Take a batch of at most 187",
        ),
        ({"batch_size": 64, "steps": 10, "rule": "date"}, "goes up from a batch of 128, not down to 64"),
        ({"valid": 120}, "120 of 120 training images cannot be held out"),
    ],
)
def test_what_is_refused(digits: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        mnist_lstm(digits, **settings)


@pytest.fixture(scope="module")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    run = mnist_lstm(
        digits, optimizer="torch.optim.Adam", lr=0.01, warmup_steps=8, batch_size=25, epochs=40, evaluations=4
    )
    train(small(run, log_every=4), folder, QUIET)
    return folder


def test_a_run_learns_and_is_told_in_accuracy(digits: Path, trained: Path) -> None:
    scored = [json.loads(line) for line in (trained / "eval.jsonl").read_text().splitlines()]
    summary = json.loads((trained / "summary.json").read_text())
    assert [line["step"] for line in scored] == [48, 96, 144, 192]
    assert (summary["step"], summary["samples"]) == (192, 4800)
    assert scored[-1]["accuracy"] >= 0.9
    assert scored[-1]["accuracy"] > scored[0]["accuracy"]
    first = max(scored, key=lambda line: line["accuracy"])
    assert summary["best"] == {"step": first["step"], "accuracy": first["accuracy"]}
    assert summary["final"]["accuracy"] == scored[-1]["accuracy"]
    assert summary["baselines"][0]["accuracy"] < 0.5
    logged = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert all("bits_per_byte" not in line and "perplexity" not in line for line in logged)
    assert logged[-1]["loss"] < logged[0]["loss"]
    derived = json.loads((trained / "run.json").read_text())["derived"]
    assert (derived["metric"], derived["counted"], derived["steps_per_epoch"]) == ("accuracy", "images", 4.8)
    model = load_model(trained, "last").model
    again = evaluate_images(model, read_images(digits, "test"))
    assert (again.accuracy, again.images) == (scored[-1]["accuracy"], 40)


def test_evaluate_and_report(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(trained), "--baselines"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(("test: accuracy 9", "test: accuracy 100"))
    assert "40 images" in said
    assert "the most frequent class: accuracy" in said
    assert main(["evaluate", str(trained), "--json", "--split", "train"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 120
    for wrong in (["--dynamic"], ["--lanes", "2"], ["--split", "valid"]):
        assert main(["evaluate", str(trained), *wrong]) == 2
    pytest.importorskip("jinja2")
    assert main(["report", str(trained)]) == 0
    page = (trained / "report" / "index.html").read_text()
    assert "Held-out accuracy" in page
    assert "higher is better" in page
    assert "images seen" in page
    assert page.count("ower is better") == 1  # of the training loss
    for text in ("its per byte", "bytes seen", "of text trained", "generate"):
        assert text not in page, text


def test_resuming_is_exact(digits: Path, tmp_path: Path) -> None:
    """In the middle of an epoch, and of a batch that holds the end of one."""
    run = small(
        mnist_lstm(digits, batch_size=50, steps=8, lr=0.1, schedule="constant", warmup_steps=2),
        evaluations=0,
        checkpoint_steps=4,
        keep_last=9,
    )
    train(run, tmp_path / "whole", QUIET)
    train(replace(run, steps=4), tmp_path / "half", QUIET)
    train(run, tmp_path / "half", replace(QUIET, resume=True))
    one, two = (load_checkpoint(tmp_path / name / "checkpoints" / "00000008") for name in ("whole", "half"))
    for group in ("model", "optimizer", "rng"):
        mine, its = getattr(one, group), getattr(two, group)
        assert mine.keys() == its.keys()
        assert all(torch.equal(mine[name], its[name]) for name in mine), group


@pytest.mark.parametrize("optimizer", TUNED)
def test_every_optimizer_is_clipped(digits: Path, tmp_path: Path, optimizer: str) -> None:
    """LARS has an option ``clip`` of its own, which is not the trainer's."""
    run = mnist_lstm(digits, optimizer=optimizer, batch_size=40, steps=4, warmup_steps=2, max_norm=1e-3)
    train(small(run, evaluations=0, log_every=4), tmp_path / "run", QUIET)
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["clipped"] == 1.0


def test_micro_batches_give_the_same_steps(digits: Path, tmp_path: Path) -> None:
    ends = []
    for micro in (None, 10):
        run = small(
            mnist_lstm(digits, batch_size=40, micro_batch_size=micro, steps=4, lr=0.1, warmup_steps=2), evaluations=0
        )
        train(run, tmp_path / str(micro), QUIET)
        ends.append(load_checkpoint(tmp_path / str(micro) / "checkpoints" / "00000004").model)
    for name, weight in ends[0].items():
        torch.testing.assert_close(weight, ends[1][name], msg=name)


def test_a_step_on_mnist_itself() -> None:
    if "OVERNIGHT_DATA" not in os.environ:
        pytest.skip("OVERNIGHT_DATA does not name the folder of real data")
    run = mnist_lstm(Path(os.environ["OVERNIGHT_DATA"]) / "mnist", batch_size=8192)
    parts = build(replace(run, precision="fp32"), ALONE)
    assert parts.data.steps_per_epoch == 60_000 / 8192
    loss = parts.task(parts.data.at(183), {})
    assert loss.count == 8192
    assert 2.0 < loss.total.item() / loss.count < 2.6
