"""State: by index, through a file, to the bit; loaded from a plain optimizer; refused where it does not fit."""

import io
import pickle
from typing import Any

import pytest
import torch
from optim.subspace.cases import BASES, boosted, net, same, train

from overnight.errors import UserError
from overnight.optim.subspace import EMA, SWA, Anderson, GaussNewton

KINDS: dict[str, dict[str, Any]] = {
    "CG": {"anchors": (2, 5), "momentum_column": 0.9},
    "Gauss-Newton": {"rule": GaussNewton(), "orthonormal": True, "ridge": 1e-3},
    "Anderson": {"rule": Anderson(), "loss": None, "batches": None, "base_momentum": "pullback"},
    "average": {"rule": EMA(), "loss": None, "batches": None, "jump": False},
    "bfloat16": {"storage_dtype": torch.bfloat16},
}


def through_a_file(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("base", ["SGD", "momentum", "Adam", "LAMB"])
@pytest.mark.parametrize("at", [1, 7, 9])
@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_the_same_to_the_bit(kind: str, at: int, base: str) -> None:
    through, first, second = net(noise=0.1), net(noise=0.1), net(seed=1, noise=0.1)
    whole, half = boosted(through, base, **KINDS[kind]), boosted(first, base, **KINDS[kind])
    train(through, whole, range(20))
    train(first, half, range(at))
    resumed = boosted(second, base, **KINDS[kind])
    train(second, resumed, range(40, 40 + at % 4))  # what it was before is forgotten
    second.load_state_dict(through_a_file(first.state_dict()))
    second.draw.set_state(first.draw.get_state())
    resumed.load_state_dict(through_a_file(half.state_dict()))
    train(second, resumed, range(at, 20))
    assert same(second, through)
    ours, theirs = resumed.state_dict(), whole.state_dict()
    assert ours["param_groups"] == theirs["param_groups"]
    for key, entry in theirs["state"].items():
        assert entry.keys() == ours["state"][key].keys()
        assert all(torch.equal(torch.as_tensor(x), torch.as_tensor(ours["state"][key][n])) for n, x in entry.items())
    with resumed.boosted(), whole.boosted():
        assert same(second, through)


def test_a_state_is_by_index_and_the_groups_keep_their_settings() -> None:
    model = net()
    optimizer = boosted(model)
    train(model, optimizer, range(4))
    packed = optimizer.state_dict()
    assert list(packed["state"]) == list(range(6))
    assert {"momentum_buffer", "boost_point", "boost_row_0", "boost_row_3"} <= packed["state"][0].keys()
    assert packed["param_groups"][0]["boost"]["outer"] == 1
    assert "boost" not in optimizer.param_groups[0]
    assert packed["param_groups"][0]["lr"] == 0.02


def test_a_due_boost_is_still_due() -> None:
    model = net()
    optimizer = boosted(model, batches=None)
    train(model, optimizer, range(3))
    other = boosted(model, batches=None)
    other.load_state_dict(optimizer.state_dict())
    assert optimizer.due
    assert other.due


def test_the_state_of_the_base_alone_starts_an_empty_history() -> None:
    model, twin = net(), net()
    base = BASES["Adam"](model.parameters())
    train(model, base, range(5))
    optimizer = boosted(twin, "Adam")
    train(twin, optimizer, range(5))
    optimizer.load_state_dict(through_a_file(base.state_dict()))
    assert optimizer.buffer.filled == 0
    assert not optimizer.due
    twin.load_state_dict(model.state_dict())
    train(twin, optimizer, range(5, 7))
    train(model, base, range(5, 7))
    assert same(model, twin)


def test_hooks_of_the_state_run() -> None:
    model = net()
    optimizer = boosted(model)
    calls: list[str] = []
    optimizer.register_state_dict_pre_hook(lambda _: calls.append("pre"))
    optimizer.register_state_dict_post_hook(lambda _, packed: {**packed, "extra": 1})
    optimizer.register_load_state_dict_pre_hook(lambda _, packed: {k: v for k, v in packed.items() if k != "extra"})
    optimizer.register_load_state_dict_post_hook(lambda _: calls.append("post"))
    packed = optimizer.state_dict()
    assert packed["extra"] == 1
    optimizer.load_state_dict(packed)
    assert calls == ["pre", "post"]


def test_pickled() -> None:
    model = net()
    optimizer = boosted(model, rule=SWA(), loss=None, batches=None, jump=False)
    train(model, optimizer, range(7))
    again = pickle.loads(pickle.dumps(optimizer))
    assert torch.equal(again.buffer.stored[0].rows, optimizer.buffer.stored[0].rows)
    assert again.param_groups is again.base.param_groups


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    model = net()
    optimizer = boosted(model)
    train(model, optimizer, range(4))
    packed = through_a_file(optimizer.state_dict())
    wider = boosted(torch.nn.Linear(6, 3), "momentum")
    longer = boosted(net(), history=6)
    turned = through_a_file(packed)
    turned["state"][0]["boost_point"] = turned["state"][0]["boost_point"].t()
    for target, state, words in (
        (longer, packed, "The state has 4 displacement rows, this SEBoost 6."),
        (wider, packed, "The state is of 6 parameters, this SEBoost has 2."),
        (optimizer, turned, "The state's boost_point of parameter 0 has shape (6, 12), the parameter (12, 6)."),
        (optimizer, {"lr": 1}, "This is no optimizer state: it has no 'state' and 'param_groups'."),
    ):
        before = through_a_file(target.state_dict())
        with pytest.raises(UserError) as caught:
            target.load_state_dict(state)
        assert caught.value.problem == words
        after = target.state_dict()
        assert after["param_groups"] == before["param_groups"]
        assert all(
            torch.equal(x, after["state"][key][name])
            for key, entry in before["state"].items()
            for name, x in entry.items()
        )
