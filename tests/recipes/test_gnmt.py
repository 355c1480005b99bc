"""The translator's recipe: what is published, what follows from it, that runs go on exactly, and what it refuses."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.pairs import write_pairs

from overnight.data.pairs.settings import PairSettings
from overnight.errors import UserError
from overnight.recipes.gnmt import gnmt
from overnight.schedule import Progress
from overnight.train.build import build
from overnight.train.checkpoint import load_checkpoint
from overnight.train.distributed import World
from overnight.train.launch import Options, train
from overnight.train.run import Run

QUIET = Options(device="cpu", quiet=True)
ALONE = World(0, 1, torch.device("cpu"))


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "corpus", train=600, settings=PairSettings(joint=True))


def small(run: Run, **changes: Any) -> Run:
    """The recipe as it is, but for its size."""
    settings = {"model.hidden_size": 12, "precision": "fp32", "threads": 1, "evaluate.bleu": False}
    for name, value in settings.items():
        run = run.with_setting(f"{name}={value}")
    return replace(run, **changes)


def factors(run: Run, steps: int) -> list[float]:
    batch = run.global_batch_size
    return [run.schedule(Progress(step * batch, batch, steps * batch)) for step in range(steps)]


def test_gnmt_as_published(pairs: Path) -> None:
    """MLPerf's 2e-3 at batch 2,048 is the same recipe; the last third of the run halves the rate four times."""
    run = gnmt(pairs, preset="gnmt", steps=1200)
    assert (run.global_batch_size, run.max_norm, run.steps) == (256, 5.0, 1200)
    assert run.optimizer.keywords["lr"] * 8**0.5 == pytest.approx(2e-3)
    model = run.model.keywords
    assert (model["hidden_size"], model["encoder_layers"], model["decoder_layers"]) == (1024, 4, 4)
    assert (model["dropout"], model["shared"], run.task.keywords["smoothing"]) == (0.2, True, 0.1)
    rates = factors(run, 1200)
    assert rates[:2] == pytest.approx([1 / 200, 2 / 200])
    assert set(rates[199:800]) == {1.0}
    assert [rates[step] for step in (800, 899, 900, 1000, 1100, 1199)] == [0.5, 0.5, 0.25, 0.125, 0.0625, 0.0625]
    assert gnmt(pairs, preset="gnmt", epochs=200).epochs == 200
    assert gnmt(pairs, preset="gnmt", epochs=200).steps is None


@pytest.mark.parametrize("batch", [128, 256, 512])
def test_the_dial_is_legw(pairs: Path, batch: int) -> None:
    run = gnmt(pairs, batch_size=batch, epochs=100)
    assert run.optimizer.keywords["lr"] == pytest.approx(1.5e-3 * (batch / 128) ** 0.5)
    assert run.schedule.keywords["warmup_samples"] == 25 * batch
    assert ("LEGW" in " ".join(run.notes)) == (batch != 128)
    steps = 100 * (600 // batch)
    assert [sum(factor == 0.5**drop for factor in factors(run, steps)[25:]) for drop in (1, 2, 3, 4)] == pytest.approx(
        [steps / 12] * 4, abs=1
    )


def test_other_rules_and_a_rate_that_is_given(pairs: Path) -> None:
    linear = gnmt(pairs, batch_size=256, rule="linear", epochs=20)
    assert (linear.optimizer.keywords["lr"], linear.schedule.keywords["warmup_samples"]) == (3e-3, 25 * 128)
    fixed = gnmt(pairs, batch_size=256, lr=0.01, epochs=20)
    assert (fixed.optimizer.keywords["lr"], fixed.schedule.keywords["warmup_samples"]) == (0.01, 25 * 256)
    assert "the rate is 0.01, as given" in " ".join(fixed.notes)
    sde = gnmt(pairs, batch_size=512, rule="adam_sde", epochs=20)
    assert sde.optimizer.keywords["betas"] == pytest.approx((0.6, 0.996))


def test_date_keeps_the_milestones_and_cuts_its_own_warm_up(pairs: Path) -> None:
    run, planned = (gnmt(pairs, batch_size=256, rule=rule, steps=120) for rule in ("date", "legw"))
    assert run.schedule.keywords["milestones"] == planned.schedule.keywords["milestones"]
    assert gnmt(pairs, batch_size=256, rule="date", steps=10).adapt is not None, "shorter than its 25 steps"
    given = gnmt(pairs, batch_size=256, rule="date", lr=0.01, max_norm=1.0, steps=120).adapt
    assert given is not None
    assert given.keywords["fixed"] == ("lr", "max_norm")
    assert (given.keywords["baseline"].keywords["lr"], given.keywords["baseline"].keywords["max_norm"]) == (0.01, 1.0)


def test_the_run_is_the_same_after_json_and_builds(pairs: Path) -> None:
    run = gnmt(pairs, epochs=20)
    run.check()
    again = Run.from_json(json.loads(json.dumps(run.to_json())))
    assert again.to_json() == run.to_json()
    parts = build(small(again), ALONE)
    assert parts.data.steps_per_epoch == 4


def test_a_corpus_of_two_vocabularies_has_two_embeddings(tmp_path: Path) -> None:
    run = gnmt(write_pairs(tmp_path / "two", train=300), preset="gnmt", steps=200)
    assert not run.model.keywords["shared"]
    assert "prepare it with --joint" in " ".join(run.notes)


def test_resuming_is_exact_and_micro_batches_change_nothing(pairs: Path, tmp_path: Path) -> None:
    run = small(gnmt(pairs, batch_size=24, steps=26, dropout=0.1), evaluations=0, checkpoint_steps=13, keep_last=9)
    train(run, tmp_path / "whole", QUIET)
    train(replace(run, steps=13), tmp_path / "half", QUIET)
    train(run, tmp_path / "half", replace(QUIET, resume=True))
    one, two = (load_checkpoint(tmp_path / name / "checkpoints" / "00000026") for name in ("whole", "half"))
    for group in ("model", "optimizer", "rng"):
        mine, its = getattr(one, group), getattr(two, group)
        assert all(torch.equal(mine[name], its[name]) for name in mine), group
    ends = []
    for micro in (24, 4):
        part = replace(run.with_setting("model.dropout=0.0"), micro_batch_size=micro, steps=3, checkpoint_steps=3)
        train(part, tmp_path / f"micro-{micro}", QUIET)
        ends.append(load_checkpoint(tmp_path / f"micro-{micro}" / "checkpoints" / "00000003").model)
    for name, weight in ends[0].items():
        torch.testing.assert_close(weight, ends[1][name], msg=name)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"preset": "multi3k"}, "no preset 'multi3k'. Did you mean multi30k"),
        ({"batch_size": 0}, "A batch of 0 cannot work"),
        ({"batch_size": 601}, "has 600 pairs, too few for a batch of 601. Take at most 600"),
        ({"lr": -1.0}, "A rate of -1 cannot work"),
        ({"epochs": 1.0}, "A warm-up of 25 steps is longer than the run of 4"),
        ({"epochs": 1.0, "steps": 3}, "one budget; given: epochs=1, steps=3"),
        ({"beam": 0}, "A beam of 0 cannot be"),
        ({"batch_size": 600, "epochs": 10.0}, "A warm-up of 25 steps is longer than the run of 10"),
    ],
)
def test_what_is_refused(pairs: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said.replace(".", r"\.")):
        gnmt(pairs, **settings)
