"""Rules → parameter groups: which parameters decay, which are adapted, in how many row blocks; and a table of them."""

import fnmatch
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Rule:
    """Settings for the parameters that meet every condition given; without one, for all.

    Attributes:
        settings: for the group, such as ``{"weight_decay": 0.0}``.
        names: patterns as in ``fnmatch``; one of them must match the parameter's name.
        modules: types; the module that holds the parameter must be one of them.
        max_ndim: the parameter has at most so many dimensions.
        zero: all its elements are zero now.
        why: said in the table; made of the conditions if empty.

    >>> Rule({"blocks": 4}, names=("*.weight_hh_l*",)).reason
    "named '*.weight_hh_l*'"
    """

    settings: Mapping[str, Any]
    names: Sequence[str] = ()
    modules: Sequence[type[nn.Module]] = ()
    max_ndim: int | None = None
    zero: bool = False
    why: str = ""

    def __post_init__(self) -> None:
        if isinstance(self.names, str):
            raise ValueError(f"names={self.names!r} must be a tuple of patterns.")
        if isinstance(self.modules, type):
            raise ValueError(f"modules={self.modules.__name__} must be a tuple of types.")
        if not isinstance(self.settings, Mapping):
            raise ValueError(f"settings={self.settings!r} must be a dict, such as {{'weight_decay': 0.0}}.")

    @property
    def reason(self) -> str:
        """Why a parameter is what it is."""
        parts = [f"named '{pattern}'" for pattern in self.names] + [f"in {kind.__name__}" for kind in self.modules]
        if self.max_ndim is not None:
            parts.append(f"at most {self.max_ndim}-D")
        if self.zero:
            parts.append("all zero")
        return self.why or ", ".join(parts) or "every parameter"


ONE_DIMENSIONAL = Rule({"weight_decay": 0.0, "adapt": False}, max_ndim=1, why="1-D")
"""Biases and norm gains: neither decayed nor adapted in any serious recipe."""
ZERO = Rule({"adapt": False}, zero=True, why="zero now")
"""A matrix that starts at zero would be trapped near it: after one step it grows by a factor of 1 + lr a step."""
EXCLUDED = (ONE_DIMENSIONAL, ZERO)


@dataclass(frozen=True)
class _Member:
    names: tuple[str, ...]
    parameter: Tensor
    modules: tuple[nn.Module, ...]
    chosen: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)


class ParameterGroups(list[dict[str, Any]]):
    """Groups for any ``torch.optim.Optimizer``, which know why: ``print(groups.table())``."""

    def __init__(self, members: Sequence[_Member], frozen: Sequence[str]) -> None:
        self._members, self._frozen = members, frozen
        groups: dict[tuple[Any, ...], dict[str, Any]] = {}
        for member in members:
            key = tuple(sorted((name, repr(value)) for name, value in member.chosen.items()))
            group = groups.setdefault(key, {"params": [], "param_names": [], **member.chosen})
            group["params"].append(member.parameter)
            group["param_names"].append(member.names[0])
        super().__init__(groups.values())

    def table(self) -> str:
        """A line for each parameter: name, shape, settings, and which rules they come from."""
        settings = sorted({name for member in self._members for name in member.chosen})
        lines = [("parameter", "shape", *settings, "because")]
        for member in self._members:
            values = [str(member.chosen.get(name, "")) for name in settings]
            reasons = ", ".join(dict.fromkeys(member.reasons.values()))
            lines.append((" = ".join(member.names), "x".join(map(str, member.parameter.shape)), *values, reasons))
        lines += [(name, "", *[""] * len(settings), "not trained") for name in self._frozen]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def param_groups(
    model: nn.Module | Iterable[tuple[str, Tensor]], rules: Sequence[Rule] = EXCLUDED, **settings: Any
) -> ParameterGroups:
    """Every trained parameter in exactly one group, with the settings of the rules.

    For each setting the first rule that applies to a parameter decides, and ``settings`` where none does. So decay and
    adaptation are decided apart from each other, and rules of your own go before ``EXCLUDED``.

    Args:
        model: a module, or (name, parameter) pairs.
        rules: in order of precedence. Without an argument: 1-D parameters are neither decayed nor adapted, and what is
            zero now is not adapted.
        settings: for what no rule decides, such as ``weight_decay=0.01``.

    Raises:
        ValueError: for a pattern or module type that matches no parameter, a rule with either that no parameter meets
            or that others leave nothing to decide, or a model without trained parameters.

    >>> model = nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2))
    >>> groups = param_groups(model, weight_decay=0.01)
    >>> [(group["param_names"], group["weight_decay"], group.get("adapt", True)) for group in groups]
    [(['0.weight'], 0.01, True), (['0.bias', '1.weight', '1.bias'], 0.0, False)]
    """
    if not isinstance(rules, Sequence) or not all(isinstance(rule, Rule) for rule in rules):
        raise ValueError(f"rules={rules!r} must be a tuple of Rule.")
    every = list(_members(model))
    members = [member for member in every if member.parameter.requires_grad]
    if not members:
        raise ValueError("There is no parameter to train.")
    for number, rule in enumerate(rules):
        _apply(rule, number, members, isinstance(model, nn.Module))
    for member in members:
        for name, value in settings.items():
            member.chosen.setdefault(name, value)
    return ParameterGroups(members, [member.names[0] for member in every if not member.parameter.requires_grad])


def _members(model: nn.Module | Iterable[tuple[str, Tensor]]) -> Iterator[_Member]:
    """Shared parameters once, with all their names."""
    owners: dict[Tensor, list[tuple[str, nn.Module | None]]] = {}
    if isinstance(model, nn.Module):
        for prefix, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                owners.setdefault(parameter, []).append((f"{prefix}.{name}" if prefix else name, module))
    else:
        for pair in model:
            if not isinstance(pair, tuple):
                raise ValueError("Parameters come without names; give the module, or its named_parameters().")
            name, parameter = pair
            owners.setdefault(parameter, []).append((name, None))
    for parameter, found in owners.items():
        modules = tuple(module for _, module in found if module is not None)
        yield _Member(tuple(name for name, _ in found), parameter, modules)


def _apply(rule: Rule, number: int, members: Sequence[_Member], has_modules: bool) -> None:
    if rule.modules and not has_modules:
        raise ValueError(f"Rule {number} ({rule.reason}) asks for module types; give the module, not its parameters.")
    for pattern in rule.names:
        if not any(fnmatch.fnmatchcase(name, pattern) for member in members for name in member.names):
            raise ValueError(f"The pattern {pattern!r} of rule {number} matches no trained parameter.")
    for kind in rule.modules:
        if not any(isinstance(module, kind) for member in members for module in member.modules):
            raise ValueError(f"Rule {number} is for {kind.__name__}, and no such module holds a trained parameter.")
    matching = [member for member in members if _meets(rule, member)]
    if not matching and (rule.names or rule.modules):
        raise ValueError(f"Rule {number} ({rule.reason}) matches no trained parameter: none meets all its conditions.")
    decided = 0
    for member in matching:
        for name, value in rule.settings.items():
            if name not in member.chosen:
                member.chosen[name], member.reasons[name] = value, rule.reason
                decided += 1
    if matching and not decided and (rule.names or rule.modules):
        earlier = ", ".join(sorted({reason for member in matching for reason in member.reasons.values()}))
        raise ValueError(f"Rule {number} ({rule.reason}) decides nothing: earlier rules do ({earlier}).")


def _meets(rule: Rule, member: _Member) -> bool:
    return (
        (not rule.names or any(fnmatch.fnmatchcase(name, p) for name in member.names for p in rule.names))
        and (not rule.modules or any(isinstance(module, tuple(rule.modules)) for module in member.modules))
        and (rule.max_ndim is None or member.parameter.dim() <= rule.max_ndim)
        and (not rule.zero or _is_zero(member.parameter))
    )


def _is_zero(parameter: Tensor) -> bool:
    if parameter.is_meta:
        return False  # nothing is known
    norm: Any = torch.linalg.vector_norm(parameter.detach(), ord=float("inf"))
    return bool((norm.full_tensor() if hasattr(norm, "full_tensor") else norm) == 0)
