"""State: saved, loaded, copied and pickled, to the bit; and refused where it belongs to another optimizer."""

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from optim.trajectories import PATHS
from torch import Tensor, nn
from torch.optim import SGD, AdamW

from overnight.optim import LAMB, LARS

KINDS = pytest.mark.parametrize("kind", [LAMB, LARS])
SHAPES = [(7,), (8, 5), (3, 1101)]


def parameters(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def train(optimizer: torch.optim.Optimizer, ps: list[Tensor], steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for p in ps:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
        optimizer.step()


def saved(optimizer: Any) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]


def assert_same_state(a: Any, b: Any) -> None:
    a, b = a.state_dict(), b.state_dict()
    assert a["param_groups"] == b["param_groups"]
    assert a["state"].keys() == b["state"].keys()
    for key, entry in a["state"].items():
        assert entry.keys() == b["state"][key].keys()
        for name, value in entry.items():
            assert value.dtype == b["state"][key][name].dtype
            assert torch.equal(value, b["state"][key][name]), (key, name)


@KINDS
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("dtype", "masters"),
    [
        (torch.float32, False),
        (torch.float64, False),
        (torch.bfloat16, False),
        (torch.bfloat16, True),
        (torch.float16, True),
    ],
    ids=str,
)
def test_a_resumed_run_is_the_same_to_the_bit(masters: bool, dtype: torch.dtype, path: str, kind: Any) -> None:
    def build(ps: list[Tensor]) -> Any:
        groups = [{"params": ps[:1], "adapt": False}, {"params": ps[1:]}]
        return kind(groups, lr=0.5, weight_decay=0.01, master_weights=masters, **PATHS[path])

    through, first = parameters(dtype), parameters(dtype)
    whole, half = build(through), build(first)
    train(whole, through, range(6))
    train(half, first, range(3))
    second = [nn.Parameter(p.detach().clone()) for p in first]
    resumed = build(second)
    resumed.load_state_dict(saved(half))
    assert_same_state(resumed, half)
    train(resumed, second, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(second, through, strict=True))
    assert_same_state(resumed, whole)


@KINDS
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_copies_go_on_alike_and_apart(again: Callable[[Any], Any], path: str, kind: Any) -> None:
    ps = parameters(torch.bfloat16)
    optimizer = kind(ps, lr=0.5, master_weights=True, **PATHS[path])
    train(optimizer, ps, range(2))
    twin = again(optimizer)
    theirs = [p for group in twin.param_groups for p in group["params"]]
    untouched = [p.detach().clone() for p in theirs]
    train(optimizer, ps, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(theirs, untouched, strict=True))
    train(twin, theirs, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(theirs, ps, strict=True))
    assert_same_state(twin, optimizer)


def other_state(
    make: Callable[[list[Tensor]], torch.optim.Optimizer], shapes: list[tuple[int, ...]] | None = None
) -> Any:
    ps = parameters() if shapes is None else [nn.Parameter(torch.ones(shape)) for shape in shapes]
    optimizer = make(ps)
    train(optimizer, ps, range(1))
    return optimizer.state_dict()


WRONG: dict[str, tuple[Any, Callable[[], Any], str]] = {
    "AdamW": (LAMB, lambda: other_state(lambda ps: AdamW(ps)), "optimizer other than LAMB"),
    "SGD": (LARS, lambda: other_state(lambda ps: SGD(ps, lr=0.1, momentum=0.9)), "optimizer other than LARS"),
    "LAMB": (LARS, lambda: other_state(lambda ps: LAMB(ps)), "optimizer other than LARS"),
    "LARS": (LAMB, lambda: other_state(lambda ps: LARS(ps, lr=0.1)), "optimizer other than LAMB"),
    "AdamW before its first step": (LAMB, lambda: AdamW(parameters()).state_dict(), "optimizer other than LAMB"),
    "more groups": (
        LAMB,
        lambda: other_state(lambda ps: LAMB([{"params": ps[:1]}, {"params": ps[1:]}])),
        r"groups of \[1, 2\] parameters, this LAMB has \[3\]",
    ),
    "fewer parameters": (LAMB, lambda: other_state(lambda ps: LAMB(ps), SHAPES[:2]), r"groups of \[2\] parameters"),
    "other shapes": (LAMB, lambda: other_state(lambda ps: LAMB(ps), [(7,), (5, 8), (3, 1101)]), r"\(5, 8\)"),
    "other order": (LARS, lambda: other_state(lambda ps: LARS(ps, lr=0.1), SHAPES[::-1]), r"\(3, 1101\)"),
    "nothing": (LAMB, dict, "no optimizer state"),
    "a model": (LARS, lambda: nn.Linear(2, 3).state_dict(), "no optimizer state"),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_state_of_something_else_is_refused_and_nothing_changes(case: str) -> None:
    kind, make, message = WRONG[case]
    ps = parameters()
    optimizer = kind(ps, lr=0.5)
    train(optimizer, ps, range(2))
    before = copy.deepcopy(optimizer)
    with pytest.raises(ValueError, match=message) as raised:
        optimizer.load_state_dict(make())
    assert len(str(raised.value).splitlines()) == 1
    assert_same_state(optimizer, before)
    twins = [p for group in before.param_groups for p in group["params"]]
    train(optimizer, ps, range(2, 4))
    train(before, twins, range(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(ps, twins, strict=True))


@pytest.mark.parametrize("kind", [LAMB, LARS])
@pytest.mark.parametrize(
    ("name", "value"), [("lr", -1.0), ("weight_decay", float("nan")), ("blocks", 4), ("adapt", "no")]
)
def test_a_state_with_settings_that_cannot_work_is_refused(name: str, value: Any, kind: Any) -> None:
    optimizer = kind(parameters(), lr=0.1)
    saved, before = copy.deepcopy(optimizer.state_dict()), pickle.dumps(optimizer.state_dict())
    saved["param_groups"][0][name] = value
    with pytest.raises(ValueError, match=f"{name}="):
        optimizer.load_state_dict(saved)
    assert pickle.dumps(optimizer.state_dict()) == before


def test_the_state_of_other_names_is_refused() -> None:
    one, other = nn.Linear(3, 3, bias=False), nn.ModuleDict({"inner": nn.Linear(3, 3, bias=False)})
    optimizer = LAMB(one.named_parameters())
    with pytest.raises(ValueError, match="other parameters"):
        optimizer.load_state_dict(LAMB(other.named_parameters()).state_dict())


@KINDS
def test_settings_come_with_the_state_every_time(kind: Any) -> None:
    optimizer = kind(parameters(), lr=0.5)
    optimizer.load_state_dict(kind(parameters(), lr=0.75).state_dict())
    optimizer.load_state_dict(kind(parameters(), lr=0.25, weight_decay=0.5, adapt=False).state_dict())
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["adapt"]) == (0.25, 0.5, False)


def test_a_state_from_before_a_setting_came() -> None:
    old = LAMB(parameters())
    state = old.state_dict()
    for group in state["param_groups"]:
        del group["norm_bounds"], group["master_weights"]
    new = LAMB(parameters())
    new.load_state_dict(state)
    assert new.param_groups[0]["norm_bounds"] == old.param_groups[0]["norm_bounds"]
    assert new.param_groups[0]["master_weights"] is False
