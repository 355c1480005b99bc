"""The average of the weights: its formula, what is evaluated, what is loaded, and what is refused."""

from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from train.toys import toy

from overnight.errors import UserError
from overnight.train.average import WeightAverage
from overnight.train.checkpoint import load_checkpoint, load_model
from overnight.train.launch import Options, train
from overnight.train.run import Run

QUIET = Options(quiet=True)
SEEN: list[tuple[bool, torch.Tensor]] = []


def look(*, model: nn.Module, autocast_dtype: torch.dtype | None, final: bool) -> dict[str, Any]:
    """An evaluation that keeps what it was given."""
    (weight, *_) = model.state_dict().values()
    SEEN.append((final, weight.clone()))
    return {"split": "valid", "bits_per_byte": 1.0, "low": 1.0, "high": 1.0, "bytes": 1}


def averaged(**changes: Any) -> Run:
    return replace(toy(checkpoint_steps=1, keep_last=99, **changes), ema=partial(WeightAverage, decay=0.75))


def test_it_is_what_the_formula_says_of_the_saved_weights(tmp_path: Path) -> None:
    train(averaged(), tmp_path / "run", QUIET)
    saved = [load_checkpoint(path) for path in sorted((tmp_path / "run" / "checkpoints").glob("0*"))]
    assert len(saved) == 8
    for name in ("mix.weight", "mix.bias"):
        for before, after in pairwise(saved):
            expected = 0.75 * before.ema[name] + 0.25 * after.model[name]
            torch.testing.assert_close(after.ema[name], expected, rtol=1e-12, atol=0)


def test_a_half_life_in_samples_is_the_same_average_for_every_batch() -> None:
    model = nn.Linear(2, 2)
    assert WeightAverage(model, batch=10, half_life_samples=100).decay ** 10 == pytest.approx(0.5)
    assert WeightAverage(model, batch=20, half_life_samples=100).decay ** 5 == pytest.approx(0.5)


def test_two_updates_of_half_a_batch_forget_as_much_as_one() -> None:
    whole, halves = (WeightAverage(torch.nn.Linear(1, 1), batch=8, decay=0.75) for _ in range(2))
    for average, shares in ((whole, [1.0]), (halves, [0.5, 0.5])):
        average.weights = {name: torch.zeros_like(w) for name, w in average.weights.items()}
        for p in average._parameters.values():
            torch.nn.init.ones_(p)
        for share in shares:
            average.update(share)
    assert whole.weights["weight"].item() == 0.25
    torch.testing.assert_close(halves.weights, whole.weights)


def test_the_average_is_evaluated_and_loaded_and_the_weights_train_on(tmp_path: Path) -> None:
    SEEN.clear()
    train(replace(averaged(), evaluate=partial(look), evaluations=2), tmp_path / "run", QUIET)
    train(toy(), tmp_path / "plain", QUIET)
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "00000008")
    assert [final for final, _ in SEEN] == [False, False, True]
    for _, weight in SEEN[1:]:
        assert torch.equal(weight, last.ema["mix.weight"])
    plain = load_checkpoint(next((tmp_path / "plain" / "checkpoints").glob("0*")))
    for name, weight in plain.model.items():
        assert torch.equal(last.model[name], weight)  # training is as without
    assert not plain.ema


def test_loading_for_use_takes_the_average(tmp_path: Path) -> None:
    run = replace(averaged(), model=partial(nn.Linear, in_features=3, out_features=4), task=partial(PlainTask))
    train(run, tmp_path / "run", QUIET)
    last = load_checkpoint(tmp_path / "run" / "checkpoints" / "00000008")
    model: Any = load_model(tmp_path / "run", "last").model
    assert torch.equal(model.weight, last.ema["weight"])
    assert not torch.equal(model.weight, last.model["weight"])


class PlainTask(nn.Module):
    """Squared error to one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: Any = model

    def initial_carry(self, lanes: int) -> dict[str, torch.Tensor]:
        return {}

    def count(self, batch: Any) -> int:
        return len(batch.x)

    def forward(self, batch: Any, carry: Any) -> Any:
        from overnight.tasks.loss import Loss

        return Loss((self.model(batch.x.float()) - 1).square().sum(), self.count(batch))


def test_some_parameters_only() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    average = WeightAverage(model, batch=1, decay=0.5, only=("1.",))
    assert set(average.weights) == {"1.weight", "1.bias"}
    first = model[0].weight.detach().clone()
    with torch.no_grad():
        model[1].weight.zero_()
    with average.applied():
        assert model[1].weight.abs().sum() > 0
        assert torch.equal(model[0].weight, first)
    assert model[1].weight.abs().sum() == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "takes a decay or a half-life"),
        ({"decay": 0.9, "half_life_samples": 5}, "takes a decay or a half-life"),
        ({"decay": 1.0}, "decay=1.0 is no average"),
        ({"decay": -0.1}, "decay=-0.1 is no average"),
        ({"half_life_samples": 0}, "half_life_samples=0 is no length"),
        ({"decay": 0.9, "only": ("rnn.",)}, r"names no parameter. There are 0., 1."),
    ],
)
def test_what_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        WeightAverage(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), batch=1, **settings)
