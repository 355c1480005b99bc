"""Every trained parameter is claimed once, by the rule that says so."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from overnight.optim import LAMB
from overnight.optim.groups import EXCLUDED, Rule, param_groups


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 8)
        self.rnn = nn.LSTM(8, 8, num_layers=2)
        self.norm = nn.LayerNorm(8)
        self.gate = nn.Linear(8, 8)
        self.out = nn.Linear(8, 5)
        self.out.weight = self.embedding.weight
        nn.init.zeros_(self.gate.weight)
        self.norm.bias.requires_grad_(False)


def settings_of(groups: list[dict[str, object]], name: str) -> dict[str, object]:
    (group,) = [group for group in groups if name in group["param_names"]]  # type: ignore[operator]
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def test_every_trained_parameter_is_in_exactly_one_group() -> None:
    model = Model()
    groups = param_groups(model, weight_decay=0.01)
    claimed = [p for group in groups for p in group["params"]]
    assert len(claimed) == len(set(claimed))
    assert set(claimed) == {p for p in model.parameters() if p.requires_grad}


def test_decay_and_adaptation_are_decided_apart() -> None:
    groups = param_groups(Model(), weight_decay=0.01)
    assert settings_of(groups, "rnn.weight_hh_l0") == {"weight_decay": 0.01}
    assert settings_of(groups, "rnn.bias_hh_l0") == {"weight_decay": 0.0, "adapt": False}
    assert settings_of(groups, "gate.weight") == {"weight_decay": 0.01, "adapt": False}  # zero, but it may decay


def test_the_first_rule_decides_each_setting() -> None:
    rules = (Rule({"adapt": True}, names=("norm.weight",)), Rule({"blocks": 4}, modules=(nn.LSTM,)), *EXCLUDED)
    groups = param_groups(Model(), rules, weight_decay=0.01)
    assert settings_of(groups, "norm.weight") == {"weight_decay": 0.0, "adapt": True}
    assert settings_of(groups, "rnn.weight_ih_l1") == {"weight_decay": 0.01, "blocks": 4}
    assert settings_of(groups, "rnn.bias_ih_l1") == {"weight_decay": 0.0, "adapt": False, "blocks": 4}


def test_a_shared_parameter_answers_to_all_its_names() -> None:
    groups = param_groups(Model(), (Rule({"weight_decay": 0.0}, names=("out.weight",)),), weight_decay=0.01)
    assert settings_of(groups, "embedding.weight") == {"weight_decay": 0.0}


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ((Rule({"adapt": False}, names=("norm.*", "nrom.*")),), "The pattern 'nrom.*' of rule 0 matches no trained"),
        ((Rule({"adapt": False}, names=("norm.bias",)),), "matches no trained parameter"),
        ((Rule({"adapt": False}, modules=(nn.Conv2d,)),), "Rule 0 is for Conv2d, and no such module"),
        ((Rule({"adapt": False}, names=("rnn.weight_*",), max_ndim=1),), "Rule 0 .* none meets all its conditions"),
        ((*EXCLUDED, Rule({"adapt": True}, names=("norm.*",))), r"Rule 2 .* decides nothing: earlier rules do \(1-D\)"),
    ],
)
def test_a_rule_that_does_nothing_raises(rules: tuple[Rule, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        param_groups(Model(), rules)


def test_module_types_need_the_module() -> None:
    rule = Rule({"blocks": 4}, modules=(nn.LSTM,))
    with pytest.raises(ValueError, match="give the module"):
        param_groups(Model().named_parameters(), (rule,))
    with pytest.raises(ValueError, match="must be a tuple of patterns"):
        Rule({}, names="norm.*")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: Rule({}, modules=nn.LSTM), "modules=LSTM must be a tuple of types"),  # type: ignore[arg-type]
        (lambda: Rule("adapt"), "settings='adapt' must be a dict"),  # type: ignore[arg-type]
        (lambda: param_groups(Model(), Rule({"adapt": False})), "must be a tuple of Rule"),  # type: ignore[arg-type]
        (lambda: param_groups(Model(), ({"adapt": False},)), "must be a tuple of Rule"),  # type: ignore[arg-type,list-item]
        (lambda: param_groups(Model().parameters()), r"give the module, or its named_parameters\(\)"),  # type: ignore[arg-type]
    ],
)
def test_what_is_of_another_kind_is_refused(ask: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ask()


def test_nothing_to_train() -> None:
    with pytest.raises(ValueError, match="no parameter to train"):
        param_groups(nn.Linear(2, 2).requires_grad_(False))


def test_the_table_says_who_got_what_and_why() -> None:
    lines = param_groups(Model(), weight_decay=0.01).table().splitlines()
    assert lines[0].split() == ["parameter", "shape", "adapt", "weight_decay", "because"]
    assert "embedding.weight = out.weight  5x8           0.01" in lines[1]
    (gate,) = [line for line in lines if line.startswith("gate.weight")]
    assert gate.split() == ["gate.weight", "8x8", "False", "0.01", "zero", "now"]
    assert lines[-1].split() == ["norm.bias", "not", "trained"]


def test_the_optimizers_take_them() -> None:
    model = Model()
    groups = param_groups(model, (Rule({"blocks": 4}, names=("rnn.weight_*",)), *EXCLUDED), weight_decay=0.01)
    for optimizer in (LAMB(groups, lr=0.1), torch.optim.AdamW(groups)):
        for p in model.parameters():
            p.grad = torch.ones_like(p) if p.requires_grad else None
        optimizer.step()
        assert [group["param_names"] for group in optimizer.param_groups] == [g["param_names"] for g in groups]


def test_a_model_on_the_meta_device() -> None:
    with torch.device("meta"):
        model = nn.Linear(3, 2)
    assert settings_of(param_groups(model, weight_decay=0.1), "weight") == {"weight_decay": 0.1}
