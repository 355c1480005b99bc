"""The byte language model's recipe: presets, the batch dial, and what it refuses."""

import json
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from oracles.corpus import write_corpus

from overnight.errors import UserError
from overnight.recipes import RECIPES, find
from overnight.recipes.byte_lm import byte_lm
from overnight.recipes.byte_presets import PRESETS
from overnight.schedule import Progress
from overnight.train.build import build
from overnight.train.distributed import World
from overnight.train.run import Run


def through_json(run: Run, trust: bool = False) -> Run:
    return Run.from_json(json.loads(json.dumps(run.to_json())), trust)


def same(a: Any, b: Any) -> bool:
    """Partials compare by identity; these by what they call."""
    if isinstance(a, partial) and isinstance(b, partial):
        names = a.keywords.keys()
        return (
            a.func is b.func and names == b.keywords.keys() and all(same(a.keywords[n], b.keywords[n]) for n in names)
        )
    return type(a) is type(b) and a == b


def factor(run: Run, progress: Progress) -> float:
    return float(run.schedule.func(progress, **run.schedule.keywords))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_the_same_run_after_json(corpus: Path, preset: str) -> None:
    run = byte_lm(corpus, preset=preset)
    run.check()
    again = through_json(run)
    for name in run.to_json():
        assert same(getattr(run, name), getattr(again, name)), name
    assert again.to_json() == run.to_json()
    assert run.model.keywords["hidden_size"] == PRESETS[preset].hidden_size
    assert run.optimizer.keywords["lr"] == PRESETS[preset].lr


def test_builtin_is_byte_lm_on_a_corpus_of_its_own(corpus: Path) -> None:
    with mock.patch("overnight.data.builtin.builtin_corpus", return_value=corpus):
        run = find("builtin")()
    assert (run.recipe, run.minutes) == ("builtin", 3.0)
    expected = byte_lm(corpus).to_json() | {"recipe": "builtin"}
    assert run.to_json() == expected == through_json(run).to_json()


def test_every_recipe_can_be_found() -> None:
    assert all(callable(find(name)) for name in RECIPES)


@pytest.mark.parametrize(
    ("settings", "rate"),
    [
        ({"batch_size": 32}, 5e-3),
        ({"batch_size": 128}, 1e-2),
        ({"batch_size": 8}, 2.5e-3),
        ({"batch_size": 128, "rule": "linear"}, 2e-2),
        ({"batch_size": 128, "rule": "none"}, 5e-3),
        ({"batch_size": 256, "rule": "paper"}, 1e-3),
        ({"batch_size": 128, "lr": 7e-4}, 7e-4),
    ],
)
def test_the_rate_follows_the_batch_by_the_rule(corpus: Path, settings: dict[str, Any], rate: float) -> None:
    run = byte_lm(corpus, **settings)
    assert run.global_batch_size == settings["batch_size"]
    assert run.optimizer.keywords["lr"] == pytest.approx(rate)
    derived = rate not in (5e-3, 7e-4)
    notes = [note for note in run.notes if "rate" in note]
    assert len(notes) == derived
    if derived:
        assert f"{rate:g}" in notes[0]
        assert settings.get("rule", "sqrt") in notes[0]
        assert str(settings["batch_size"]) in notes[0]


def test_rules_that_change_more_than_the_rate(corpus: Path) -> None:
    legw = byte_lm(corpus, batch_size=128, rule="legw")
    assert legw.optimizer.keywords["lr"] == pytest.approx(1e-2)
    assert legw.schedule.keywords["warmup_samples"] == 100 * 128
    assert "LEGW" in legw.notes[0]
    sde = byte_lm(corpus, batch_size=128, rule="adam_sde")
    assert sde.optimizer.keywords["betas"] == pytest.approx((0.6, 0.96))
    assert sde.optimizer.keywords["eps"] == pytest.approx(5e-9)
    assert sde.schedule.keywords["warmup_samples"] == 100 * 32
    assert "Adam SDE" in sde.notes[0]
    assert "eps" not in byte_lm(corpus, batch_size=128).optimizer.keywords
    given = byte_lm(corpus, batch_size=128, rule="adam_sde", lr=1e-3)
    assert (given.optimizer.keywords["lr"], given.optimizer.keywords["betas"]) == (1e-3, (0.9, 0.99))


@pytest.mark.parametrize(("batch", "rate"), [(128, 5e-4), (256, 1e-3), (768, 3e-3), (2048, 3e-3), (32768, 3e-3)])
def test_the_papers_rule_and_horizon(corpus: Path, batch: int, rate: float) -> None:
    run = byte_lm(corpus, preset="4096", batch_size=batch)
    assert run.optimizer.keywords["lr"] == pytest.approx(rate)
    assert "the paper's rule" in run.notes[0]
    horizon = run.schedule.keywords.get("horizon_samples")
    assert horizon == (100_000 * batch if batch > 2048 else None)
    assert any("100,000 steps" in note for note in run.notes) == (batch > 2048)
    halfway = Progress(50_000 * batch, batch, 60_000 * batch)
    assert factor(run, halfway) == pytest.approx(0.5 if batch > 2048 else 1 / 6)


def test_the_warmup_is_kept_in_samples(corpus: Path) -> None:
    assert byte_lm(corpus).schedule.keywords["warmup_samples"] == 100 * 32
    assert byte_lm(corpus, batch_size=64).schedule.keywords["warmup_samples"] == 100 * 32
    assert byte_lm(corpus, batch_size=64, warmup_steps=10).schedule.keywords["warmup_samples"] == 640
    assert byte_lm(corpus, preset="8192").schedule.keywords["warmup_samples"] == 0


def test_a_given_budget_replaces_the_presets(corpus: Path) -> None:
    for given in ({"steps": 7}, {"epochs": 2.0}, {"minutes": 1.0}):
        run = byte_lm(corpus, **given)  # type: ignore[arg-type]
        run.check()
        assert {name: getattr(run, name) for name in ("steps", "epochs", "minutes")} == dict.fromkeys(
            ("steps", "epochs", "minutes")
        ) | given


def test_two_budgets_are_refused(corpus: Path) -> None:
    with pytest.raises(UserError, match=r"one budget; given: steps=5, minutes=2\.0\. Set one of") as caught:
        byte_lm(corpus, steps=5, minutes=2.0).check()
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"preset": "labtop"}, "no preset 'labtop'. Did you mean laptop?"),
        ({"preset": "zzz"}, "no preset 'zzz'. Choose one of laptop, ten-minutes, 512"),
        ({"optimizer": "adamm"}, "no optimizer 'adamm'. Did you mean adam"),
        ({"optimizer": "torch.optim.Sdg"}, "'torch.optim.Sdg' cannot be imported"),
        ({"optimizer": "no_such_package.Optimizer"}, "'no_such_package.Optimizer' cannot be imported"),
        ({"batch_size": 0}, "A batch of 0 cannot work. Take at least 1."),
        ({"warmup_steps": -1}, "--warmup-steps -1 cannot work. Take 0 for none, or more."),
        ({"batch_size": 320, "rule": "adam_sde"}, "does not reach k = 10 from a beta of 0.9"),
        ({"optimizer": "torch.optim.SGD", "rule": "adam_sde"}, "The rule adam_sde is for Adam. Take"),
        ({"batch_size": -4}, "A batch of -4 cannot work. Take at least 1."),
    ],
)
def test_what_is_unknown_is_refused(corpus: Path, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        byte_lm(corpus, **settings)
    assert said in str(caught.value)
    assert caught.value.remedy


def test_an_optimizer_by_its_import_path(corpus: Path) -> None:
    run = byte_lm(corpus, optimizer="torch.optim.SGD").with_setting("optimizer.momentum=0.9")
    made = run.optimizer(params=[torch.nn.Parameter(torch.zeros(2))])
    assert isinstance(made, torch.optim.SGD)
    assert (made.defaults["lr"], made.defaults["momentum"]) == (5e-3, 0.9)
    assert same(through_json(run).optimizer, run.optimizer)
    with pytest.raises(UserError, match=r"optimizer\.momentun .*Did you mean optimizer\.momentum"):
        run.with_setting("optimizer.momentun=0.9")


def test_an_optimizer_exchanged_keeps_the_settings_that_it_takes(corpus: Path) -> None:
    run = byte_lm(corpus).with_setting("optimizer=torch.optim.SGD")
    assert run.optimizer.func is torch.optim.SGD
    assert run.optimizer.keywords["lr"] == 5e-3
    assert "betas" not in run.optimizer.keywords


def test_a_corpus_that_is_moved_moves_the_evaluation_too(corpus: Path) -> None:
    run = byte_lm(corpus)
    moved = run.with_setting("data.corpus=/elsewhere")
    assert "/elsewhere" not in json.dumps(run.to_json())
    for part in (moved.data, moved.evaluate, moved.baselines):
        assert part is not None
        assert part.keywords["corpus"] == "/elsewhere"
    # a corpus that is held out on purpose stays where it is
    apart = run.with_setting("evaluate.corpus=/held-out").with_setting("data.corpus=/elsewhere")
    assert apart.evaluate is not None
    assert apart.evaluate.keywords["corpus"] == "/held-out"


def test_without_a_held_out_split_nothing_is_evaluated_and_a_note_says_so(tmp_path: Path) -> None:
    run = byte_lm(write_corpus(tmp_path / "corpus", train=[[b"text " * 500]]))
    assert run.evaluate is run.baselines is run.sample is None
    assert any("nothing is held out" in note and "--split" in note for note in run.notes)


def test_the_test_split_stands_in_for_a_missing_validation_split(tmp_path: Path) -> None:
    run = byte_lm(write_corpus(tmp_path / "corpus", train=[[b"text " * 500]], test=[[b"held out"]]))
    assert run.evaluate is not None
    assert run.evaluate.keywords["split"] == "test"
    assert run.notes == ()


@pytest.mark.parametrize(("name", "rate", "decay"), [("lamb", 0.02, 0.01), ("lars", 20.0, 1e-4)])
def test_another_optimizer_is_another_baseline(corpus: Path, name: str, rate: float, decay: float) -> None:
    run = byte_lm(corpus, optimizer=name)
    assert run.optimizer.keywords["lr"] == rate
    assert byte_lm(corpus, optimizer=name, batch_size=128).optimizer.keywords["lr"] == pytest.approx(2 * rate)
    assert run.param_groups is not None
    assert run.param_groups.keywords == {"weight_decay": decay}
    assert through_json(run).to_json() == run.to_json()
    groups = build(run, World(0, 1, torch.device("cpu"))).optimizer.param_groups
    assert {(group["adapt"], group["weight_decay"]) for group in groups} == {(True, decay), (False, 0.0)}


@pytest.mark.parametrize("name", ["lamb", "lars"])
def test_a_preset_without_a_tuned_rate_wants_one(corpus: Path, name: str) -> None:
    with pytest.raises(UserError, match=rf"Preset 4096 has no tuned rate for {name}. Give one with --lr."):
        byte_lm(corpus, preset="4096", optimizer=name)
    assert byte_lm(corpus, preset="4096", optimizer=name, lr=0.5).optimizer.keywords["lr"] == 0.5
