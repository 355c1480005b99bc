"""What cannot work is refused in one clear sentence, and leaves everything as it was."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from overnight.optim import LAMB, LARS

KINDS = pytest.mark.parametrize("kind", [LAMB, LARS])


def parameter(*shape: int) -> Tensor:
    p = nn.Parameter(torch.ones(shape))
    p.grad = torch.ones(shape)
    return p


def refused(action: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        action()
    assert str(raised.value).endswith(".")
    assert "\n" not in str(raised.value)


SETTINGS: list[tuple[Any, dict[str, Any], str]] = [
    *((kind, {"lr": value}, "lr=") for kind in (LAMB, LARS) for value in (-1.0, math.nan, math.inf, "1", None, True)),
    *((kind, {"lr": torch.tensor(value)}, "lr") for kind in (LAMB, LARS) for value in (-1.0, math.nan, [0.1, 0.2])),
    *((kind, {"weight_decay": value}, "weight_decay") for kind in (LAMB, LARS) for value in (-0.1, math.nan, math.inf)),
    *((kind, {"eps": value}, "eps=") for kind in (LAMB, LARS) for value in (-1e-9, math.nan)),
    *((kind, {"blocks": value}, "blocks=") for kind in (LAMB, LARS) for value in (0, -4, 2.0, True, 3)),
    *((kind, {"variant": "lambda"}, "'lambda'.*lam|'lambda'.*lar") for kind in (LAMB, LARS)),
    *((kind, {"variant": value}, "variant") for kind in (LAMB, LARS) for value in (None, ["lamb"])),
    *((kind, {name: value}, f"{name}=.* must be True or False") for kind in (LAMB, LARS) for value in ("no", None, 0)
      for name in ("adapt", "maximize", "capturable", "master_weights")),
    *((kind, {name: "yes"}, "must be True, False or None") for kind in (LAMB, LARS) for name in ("foreach", "fused")),
    *((LARS, {name: "no"}, f"{name}='no' must be True or False") for name in ("clip", "nesterov")),
    *((kind, {"foreach": True, "fused": True}, "exclude each other") for kind in (LAMB, LARS)),
    *((LAMB, {"betas": (value, 0.999)}, "beta 1=") for value in (-0.1, 1.0, 2.0, math.nan)),
    *((LAMB, {"betas": (0.9, value)}, "beta 2=") for value in (-0.1, 1.0, math.nan)),
    *((LAMB, {"betas": value}, "betas=") for value in (0.9, (0.9,), (0.9, 0.99, 0.999))),
    *((LAMB, {"bias_correction": value}, "bias_correction=") for value in ("ratio", 1, 0.5)),
    *((LAMB, {name: value}, name) for name in ("ratio_bounds", "norm_bounds")
      for value in ((-1.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (0.0, math.nan), 1.0)),
    *((LAMB, {"max_grad_norm": value}, "max_grad_norm=") for value in (0.0, -1.0, math.nan, "1")),
    *((LARS, {"momentum": value}, "momentum=") for value in (-0.1, 1.0, math.nan)),
    *((LARS, {"trust_coefficient": value}, "trust_coefficient=") for value in (-0.1, math.nan, math.inf)),
    (LARS, {"momentum_placement": "outside"}, "'outside'.*inside, torch, scaled"),
    (LARS, {"denominator": "product"}, "'product'.*sum, decayed"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "settings", "message"), SETTINGS, ids=lambda x: str(x) if isinstance(x, dict) else "")
def test_settings(kind: Any, settings: dict[str, Any], message: str) -> None:
    refused(lambda: kind([parameter(4, 5)], **{"lr": 0.1, **settings}), message)
    optimizer = kind([parameter(2)], lr=0.1)
    before = copy.deepcopy(optimizer.state_dict())
    refused(lambda: optimizer.add_param_group({"params": [parameter(4, 5)], **settings}), message)
    assert optimizer.state_dict() == before
    optimizer.step()


def group(params: Any) -> dict[str, Any]:
    return {"params": params}


@KINDS
@pytest.mark.parametrize(
    ("params", "message"),
    [
        ([], "empty"),
        (iter(()), "empty"),
        ([nn.Parameter(torch.ones(3, dtype=torch.complex64))], "complex.*view_as_real"),
        ([nn.Parameter(torch.ones(3, dtype=torch.int64), requires_grad=False)], "int64"),
        ([nn.Parameter(torch.ones(3, dtype=torch.bool), requires_grad=False)], "bool"),
    ],
    ids=["empty", "empty_iterator", "complex", "int", "bool"],
)
def test_parameters(params: Any, message: str, kind: Any) -> None:
    params = copy.copy(params)
    refused(lambda: kind([group(params)], lr=0.1), message)
    optimizer = kind([parameter(2)], lr=0.1)
    refused(lambda: optimizer.add_param_group(group(params)), message)
    assert len(optimizer.param_groups) == 1
    optimizer.step()


@KINDS
def test_no_parameters_and_sets(kind: Any) -> None:
    with pytest.raises(ValueError, match="empty"):
        kind([], lr=0.1)
    with pytest.raises(TypeError, match="ordered"):
        kind([group({parameter(2), parameter(3)})], lr=0.1)


@KINDS
@pytest.mark.parametrize("shape", [(6, 4), (), (0, 3)])
def test_row_blocks_that_do_not_divide(shape: tuple[int, ...], kind: Any) -> None:
    if shape == (0, 3):
        kind([parameter(*shape)], lr=0.1, blocks=4).step()  # no rows are in no block
    else:
        refused(lambda: kind([parameter(*shape)], lr=0.1, blocks=4), r"blocks=4 does not divide.*shape \(")


@KINDS
@pytest.mark.parametrize("path", [{"foreach": False}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("already", [False, True])
def test_sparse_gradients_change_nothing(already: bool, path: dict[str, Any], kind: Any) -> None:
    table, before, after = nn.Embedding(7, 3, sparse=True), parameter(4, 3), parameter(5, 3)
    optimizer = kind([{"params": [before, table.weight]}, {"params": [after]}], lr=0.1, **path)
    if already:
        optimizer.step()
    table(torch.tensor([1, 5])).sum().backward()
    weights = [p.detach().clone() for p in (before, table.weight, after)]
    state = pickle.dumps(optimizer.state_dict())
    refused(optimizer.step, r"sparse.*SparseAdam")
    assert all(torch.equal(p, w) for p, w in zip((before, table.weight, after), weights, strict=True))
    assert pickle.dumps(optimizer.state_dict()) == state
    table.weight.grad = table.weight.grad.to_dense()
    optimizer.step()
    assert not any(torch.equal(p, w) for p, w in zip((before, table.weight, after), weights, strict=True))


@pytest.mark.parametrize("kind", [LAMB, LARS])
@pytest.mark.parametrize(("name", "meant"), [("weigth_decay", "weight_decay"), ("adpat", "adapt")])
def test_a_misspelt_setting_of_a_group(kind: Any, name: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is not a setting of {kind.__name__}; did you mean '{meant}'"):
        kind([{"params": [torch.nn.Parameter(torch.ones(2))], name: 0.0}], lr=0.1)
    kind([{"params": [torch.nn.Parameter(torch.ones(2))], "max_momentum": 0.9, "name": "mine"}], lr=0.1)  # schedulers'
