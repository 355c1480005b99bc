"""Every bad input of SEBoost is one clear error, and the weights are as they were."""

import copy
import itertools
import random
from typing import Any

import pytest
import torch
from optim.subspace.cases import batch, boosted, criterion, loss_of, net, same, train
from torch import nn

from overnight.errors import UserError
from overnight.optim import SEBoost
from overnight.optim.subspace import EMA, LAWA, SWA, Anderson, Fixed, GaussNewton, NonlinearCG

SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"every": 0}, "every=0 (l, the steps between boosts) is not a whole number of at least 1."),
    ({"every": True}, "every=True (l, the steps between boosts) is not a whole number of at least 1."),
    ({"history": 0}, "history=0 (M, the displacements that are kept) is not a whole number of at least 1."),
    ({"history": 2.0}, "history=2.0 (M, the displacements that are kept) is not a whole number of at least 1."),
    ({"anchors": (5, 0)}, "anchors=(5, 0) are not whole numbers of at least 1."),
    ({"momentum_column": 1.0}, "momentum_column=1.0 is out of range."),
    ({"ridge": -1.0}, "ridge=-1.0 is out of range."),
    ({"base_momentum": "drop"}, "base_momentum='drop' is unknown."),
    ({"storage_dtype": "bf16"}, "storage_dtype='bf16' is unknown."),
    ({"storage_dtype": torch.int8}, "storage_dtype=torch.int8 is unknown."),
    ({"rule": "cg"}, "rule is a str."),
    ({"loss": None, "batches": None}, "NonlinearCG searches by the loss, and none was given."),
    ({"rule": GaussNewton(), "outputs": None}, "GaussNewton needs the model's outputs."),
    ({"model": None}, "A loss was given without its model."),
    ({"model": nn.Linear(6, 3)}, "A parameter of shape (12, 6) of the optimizer is not in the model."),
    ({"rule": Fixed(), "loss": None}, "batches were given without a loss."),
    ({"rule": Fixed(), "ridge": 1.0}, "Fixed does not search by the loss, which anchors, momentum and ridge are for."),
    ({"rule": LAWA(6)}, "history=4 is too short for LAWA(window=6)."),
]  # fmt: skip
RULES = [
    (Fixed, {"step": 3.0}, "step=3.0 of Fixed is out of range."),
    (EMA, {"decay": -0.1}, "decay=-0.1 of EMA is out of range."),
    (SWA, {"skip": -1}, "skip=-1 of SWA is out of range."),
    (LAWA, {"window": 0}, "window=0 of LAWA is out of range."),
    (Anderson, {"ridge": float("nan")}, "ridge=nan of Anderson is out of range."),
    (NonlinearCG, {"max_evaluations": 1}, "max_evaluations=1 of NonlinearCG is out of range."),
    (NonlinearCG, {"sigma": 0.001}, "sigma=0.001 of NonlinearCG is out of range."),
    (GaussNewton, {"damping": -1.0}, "damping=-1.0 of GaussNewton is out of range."),
    (GaussNewton, {"products": "reverse"}, "products='reverse' is unknown."),
]


@pytest.mark.parametrize(("settings", "words"), SETTINGS, ids=[words for _, words in SETTINGS])
def test_settings(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        boosted(net(), **settings)
    assert caught.value.problem == words


@pytest.mark.parametrize(("rule", "settings", "words"), RULES, ids=[words for *_, words in RULES])
def test_rules(rule: Any, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        rule(**settings)
    assert caught.value.problem == words


def test_bases() -> None:
    parameters = list(net().parameters())
    inner = SEBoost(torch.optim.SGD(parameters, lr=0.1), Fixed())
    for base, words in (
        (torch.optim.LBFGS(parameters), "SEBoost cannot wrap LBFGS, whose step needs a closure."),
        (inner, "base is a SEBoost itself."),
        (parameters, "base is a list."),
        (torch.optim.SGD([nn.Parameter(torch.ones(1, dtype=torch.cfloat))]), "A complex parameter is not supported."),
    ):
        with pytest.raises(UserError) as caught:
            SEBoost(base, Fixed())  # type: ignore[arg-type]
        assert caught.value.problem == words


@pytest.mark.parametrize("noise", [itertools.count().__next__, random.random], ids=["rising", "random"])
def test_a_loss_that_is_not_repeatable(noise: Any) -> None:
    model, plain = net(), net()
    optimizer = boosted(model, loss=lambda given: loss_of(model)(given) + noise())
    train(plain, torch.optim.SGD(plain.parameters(), lr=0.02, momentum=0.9), range(3))
    with pytest.raises(UserError, match=r"The loss of the boost batch is not repeatable: .* for the same weights") as e:
        train(model, optimizer, range(3))
    assert "generator" in e.value.remedy
    assert same(model, plain)


def test_a_loss_that_is_not_repeatable_is_found_without_a_search() -> None:
    rising = iter(range(1000))
    model = net()
    optimizer = boosted(model, rule=Fixed(), loss=lambda given: loss_of(model)(given) + next(rising), accept=False)
    with pytest.raises(UserError, match="not repeatable"):
        train(model, optimizer, range(3))


def test_an_error_inside_the_loss_leaves_the_weights() -> None:
    model, plain = net(), net()
    calls = iter(range(100))

    def loss(given: Any) -> torch.Tensor:
        if next(calls) == 3:
            raise MemoryError("no more")
        return loss_of(model)(given)

    train(plain, torch.optim.SGD(plain.parameters(), lr=0.02, momentum=0.9), range(3))
    with pytest.raises(MemoryError):
        train(model, boosted(model, loss=loss), range(3))
    assert same(model, plain)


def test_losses_and_outputs_of_another_kind() -> None:
    model = net()
    for settings, words in (
        ({"loss": lambda given: model(given[0])}, "loss returned a tensor of shape (32, 3), not one number."),
        ({"loss": lambda given: 1.0}, "loss returned a float, not one number."),
        ({"loss": lambda given: torch.tensor(1.0)}, "The loss of the boost batch depends on no parameter."),
        (
            {"rule": GaussNewton(), "loss": criterion, "outputs": lambda given: (model(given[0]),)},
            "outputs returned a tuple.",
        ),
    ):
        with pytest.raises(UserError) as caught:
            train(model, boosted(model, **settings), range(3))
        assert caught.value.problem == words


class _Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


def test_an_operation_without_forward_mode() -> None:
    model = net(dropout=0.0)

    def settings() -> dict[str, Any]:
        return {"loss": criterion, "outputs": lambda given: _Square.apply(model(given[0]))}

    with pytest.raises(UserError, match="forward-mode") as caught:
        train(model, boosted(model, rule=GaussNewton(), **settings()), range(3))
    assert caught.value.remedy == 'Use GaussNewton(products="differences").'
    optimizer = boosted(model, rule=GaussNewton(products="differences"), **settings())
    train(model, optimizer, range(3))
    assert optimizer.last is not None
    assert optimizer.last.loss_after is not None


def test_boosts_that_are_forgotten_early_or_bare() -> None:
    model = net()
    optimizer = boosted(model, batches=None)
    with pytest.raises(UserError, match="There is no displacement before the first step"):
        optimizer.boost(batch(0), batch(1))
    train(model, optimizer, range(3))
    before = copy.deepcopy(model.state_dict())
    for arguments, words in (
        ((), "boost() was given no batch."),
        ((batch(0),), "boost() was given no second batch, by which a boost is accepted."),
    ):
        with pytest.raises(UserError) as caught:
            optimizer.boost(*arguments)
        assert caught.value.problem == words
    with pytest.raises(UserError, match="A boost has been due since step 3"):
        optimizer.step()
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in before.items())
    with pytest.raises(UserError, match="This SEBoost has no loss"):
        SEBoost(torch.optim.SGD(model.parameters()), Fixed()).boost_closure(batch(0))


def test_grad_scaler_is_refused_and_plain_training_goes_on() -> None:
    model = net()
    optimizer = boosted(model)
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(loss_of(model)(batch(0))).backward()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match="SEBoost does not work under GradScaler") as caught:
        scaler.step(optimizer)
    assert "bfloat16" in caught.value.remedy
    assert all(torch.equal(x, model.state_dict()[name]) for name, x in before.items())
    train(model, optimizer, range(3))
    disabled = torch.amp.GradScaler("cpu", enabled=False)
    disabled.step(optimizer)
