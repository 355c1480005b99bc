"""``--rule date``: a run that begins at the baseline, and an engine that knows it."""

from pathlib import Path

import pytest
from train.adapting import decisions

from overnight.errors import UserError
from overnight.recipes.byte_lm import byte_lm
from overnight.scaling import DATE
from overnight.train.launch import Options, train


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
    assert byte_lm(corpus, batch_size=64, rule="date", steps=10, lr=0.01).adapt is None


def test_a_smaller_batch_is_refused(corpus: Path) -> None:
    with pytest.raises(UserError, match="goes up from a batch of 32, not down to 16"):
        byte_lm(corpus, batch_size=16, rule="date", steps=10)


def test_it_trains(corpus: Path, tmp_path: Path) -> None:
    run = byte_lm(corpus, batch_size=64, length=8, rule="date", steps=4, evaluations=1)
    summary = train(run.with_setting("model.hidden_size=16"), tmp_path / "run", Options(quiet=True))
    assert summary["state"] == "finished"
    assert decisions(tmp_path / "run")[0]["what"] == "lr"
