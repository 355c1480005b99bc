"""Relative steps against updates that are known, and the clip rate."""

import math

import pytest
import torch
from torch import nn

from overnight.optim import LAMB
from overnight.scaling.relative_step import ClipRate, RelativeStep


def two_layers() -> nn.ParameterDict:
    torch.manual_seed(0)
    return nn.ParameterDict({"a": nn.Parameter(torch.randn(5, 3)), "b": nn.Parameter(torch.randn(4) * 100)})


def move(model: nn.ParameterDict, factor: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + factor)


def test_each_layer_and_all_together() -> None:
    model = two_layers()
    steps = RelativeStep(model.named_parameters())
    with steps.around(), torch.no_grad():
        model["a"].mul_(1.02)
        model["b"].mul_(0.9)
    before = torch.cat([model["a"].detach().flatten() / 1.02, model["b"].detach() / 0.9])
    after = torch.cat([model["a"].detach().flatten(), model["b"].detach()])
    reading = steps.read()
    assert reading.layers == {"a": pytest.approx(0.02, rel=1e-4), "b": pytest.approx(0.1, rel=1e-4)}
    assert reading.relative_step == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-4)
    assert reading.spread == pytest.approx(5.0, rel=1e-3)
    assert reading.cosine is None


def test_lamb_moves_every_layer_by_its_rate() -> None:
    model = two_layers()
    optimizer = LAMB(model.parameters(), lr=0.01, foreach=True)
    steps = RelativeStep(model.named_parameters())
    for _ in range(5):
        optimizer.zero_grad()
        sum(parameter.square().sum() for parameter in model.parameters()).backward()  # type: ignore[union-attr]
        with steps.around():
            optimizer.step()
    assert list(steps.read().layers.values()) == [pytest.approx(0.01, rel=1e-3)] * 2


def test_the_average_has_no_memory_of_its_start() -> None:
    model = two_layers()
    steps = RelativeStep(model.named_parameters(), decay=0.5)
    for factor in (0.01, 0.03):
        with steps.around():
            move(model, factor)
    assert steps.read().relative_step == pytest.approx((0.25 * 0.01 + 0.5 * 0.03) / 0.75, rel=1e-4)


def test_cosines_of_successive_updates() -> None:
    weight = nn.Parameter(torch.zeros(2).fill_(10.0))
    directions = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-1.0, -1.0], [2.0, 0.0]])
    expected = [math.nan, 1 / math.sqrt(2), -1.0, -1 / math.sqrt(2)]
    every, some = (RelativeStep([("w", weight)], cosine=True, decay=0.0, every=n) for n in (1, 3))
    for direction, cosine in zip(directions, expected, strict=True):
        with every.around(), some.around(), torch.no_grad():
            weight.add_(0.1 * direction)
        assert every.read().cosine == pytest.approx(cosine, abs=1e-5, nan_ok=True)
    # of every third step, measured at the first and the fourth: the fourth against the third
    assert some.read().cosine == pytest.approx(expected[3], abs=1e-5)
    assert some.read().steps == 2


def test_skipped_and_broken_steps_say_nothing() -> None:
    model = two_layers()
    steps = RelativeStep(model.named_parameters())
    assert math.isnan(steps.read().relative_step)
    for factor in (0.01, 0.0, math.nan):
        with steps.around():
            move(model, factor)
    reading = steps.read()
    assert reading.relative_step == pytest.approx(0.01, rel=1e-4)
    assert reading.steps == 1


def test_a_resumed_average_is_the_same() -> None:
    model = two_layers()
    whole = RelativeStep(model.named_parameters(), every=2)
    half = RelativeStep(model.named_parameters(), every=2)
    for index in range(3):
        with whole.around(), half.around():
            move(model, 0.01 * index + 0.01)
    resumed = RelativeStep(model.named_parameters(), every=2)
    resumed.load_state_dict(half.state_dict())
    for index in range(4):
        with whole.around(), resumed.around():
            move(model, 0.02 * index + 0.01)
    assert resumed.read() == whole.read()
    with pytest.raises(ValueError, match="other layers"):
        RelativeStep([("c", nn.Parameter(torch.ones(1)))]).load_state_dict(half.state_dict())


def test_zero_weights_and_bad_settings() -> None:
    weight = nn.Parameter(torch.zeros(3))
    steps = RelativeStep([("w", weight)])
    with steps.around(), torch.no_grad():
        weight.add_(1.0)
    assert steps.read().layers["w"] == 0.0
    for settings in ({"every": 0}, {"decay": 1.0}):
        with pytest.raises(ValueError, match="must be a"):
            RelativeStep([("w", weight)], **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a name of its own"):
        RelativeStep([("w", weight), ("w", weight)])


def test_clip_rate_starts_anew_with_each_reading() -> None:
    rate = ClipRate()
    for norm in (0.5, 3.0):
        rate.observe(torch.tensor(norm), 1.5)
    assert rate.read() == (0.5, 0.75)
    assert all(math.isnan(value) for value in rate.read())
