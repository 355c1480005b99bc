"""The optimizer that is examined: how its class is found and built, and whose identities it should keep."""

import ast
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from overnight.errors import UserError

Family = Literal["lamb", "lars"]
KEYWORDS = {
    "weight_decay": ("weight_decay", "wd"),
    "momentum": ("momentum",),
    "trust_coefficient": ("trust_coefficient", "trust_coeff", "trust_coef", "eeta", "eta"),
    "betas": ("betas",),
}
"""What different codes call the same setting."""
CHOSEN: dict[Family, dict[str, Any]] = {"lamb": {}, "lars": {"momentum": 0.9, "trust_coefficient": 0.001}}
"""What the checks set in all classes of a family; the rate and the weight decay are each check's own."""
DEFAULTS: dict[str, Any] = {"weight_decay": 0.0, "momentum": 0.0, "trust_coefficient": 0.001, "betas": (0.9, 0.999)}
"""In effect where a class has no such argument; the trust coefficient is then the paper's."""


@dataclass(frozen=True)
class Subject:
    """An optimizer class, and settings of it.

    Args:
        name: as the user wrote it, such as ``overnight.optim:LAMB``.
        cls: the class.
        family: whose identities it should keep.
        given: keyword arguments of the user.
    """

    name: str
    cls: type[Optimizer]
    family: Family
    given: Mapping[str, Any]

    @cached_property
    def arguments(self) -> tuple[str, ...]:
        """The constructor's keyword arguments."""
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        found = inspect.signature(self.cls).parameters.values()
        return tuple(parameter.name for parameter in found if parameter.kind in named)[1:]

    def takes(self, argument: str) -> bool:
        """Whether the constructor has this keyword argument."""
        return argument in self.arguments

    def keyword(self, setting: str) -> str | None:
        """What this class calls one of ``KEYWORDS``, or None."""
        return next((name for name in KEYWORDS[setting] if self.takes(name)), None)

    def chosen(self) -> dict[str, Any]:
        """What the checks set in every optimizer that they build."""
        settings = {self.keyword(setting): value for setting, value in CHOSEN[self.family].items()}
        return {name: value for name, value in settings.items() if name is not None and name not in self.given}

    def build(self, parameters: Iterable[Tensor], lr: float, weight_decay: float = 0.0, **more: Any) -> Optimizer:
        """An optimizer of these parameters; ``more`` goes before what the user gave."""
        settings = {**self.chosen(), **self.given, **more, "lr": lr}
        decay = self.keyword("weight_decay")
        if decay is not None:
            settings[decay] = weight_decay
        return self.cls(list(parameters), **settings)

    def in_effect(self, setting: str, optimizer: Optimizer) -> Any:
        """The value of one of ``KEYWORDS`` in an optimizer that was built."""
        name = self.keyword(setting)
        if name is None:
            return DEFAULTS[setting]
        passed = {**self.chosen(), **self.given}
        return passed[name] if name in passed else optimizer.param_groups[0].get(name, DEFAULTS[setting])


def find_subject(target: str, assignments: Sequence[str] = (), family: Family | None = None) -> Subject:
    """The subject that a command line describes, after one was built for a trial.

    Args:
        target: ``module:Class``; the current folder is searched first.
        assignments: ``name=value`` each, arguments of the constructor.
        family: guessed from the name of the class if None.

    Raises:
        UserError: for what cannot be imported, is no optimizer, is of neither family or refuses its arguments.

    >>> find_subject("overnight.optim:LAMB", ["variant=nvlamb"]).family
    'lamb'
    """
    module_name, separator, class_name = target.partition(":")
    if not (module_name and separator and class_name):
        raise UserError(f"{target!r} does not name a class.", "Write --optimizer module:Class.")
    subject = Subject(target, _import(module_name, class_name), family or _guess(class_name), _settings(assignments))
    unknown = [name for name in subject.given if not subject.takes(name)]
    if unknown:
        raise UserError(
            f"{class_name} has no argument {unknown[0]!r}.", f"It takes: {', '.join(subject.arguments) or 'none'}."
        )
    try:
        subject.build([torch.nn.Parameter(torch.ones(2, 2))], lr=0.1)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".rstrip(".")
        raise UserError(f"{target} cannot be built: {reason}.", "Give what it needs with --set name=value.") from error
    return subject


def _import(module_name: str, class_name: str) -> type[Optimizer]:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except AttributeError as error:
        raise UserError(f"{module_name} has no {class_name}.", "Write --optimizer module:Class.") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".rstrip(".")
        raise UserError(f"{module_name} cannot be imported: {reason}.", "Install it, or mend its import.") from error
    if not (isinstance(found, type) and issubclass(found, Optimizer)):
        raise UserError(f"{module_name}:{class_name} is no torch.optim.Optimizer.", "Name a subclass of it.")
    return found


def _guess(class_name: str) -> Family:
    if re.search("lamb|lans", class_name, re.IGNORECASE):
        return "lamb"
    if re.search("lars|larc", class_name, re.IGNORECASE):
        return "lars"
    raise UserError(f"The name {class_name} does not tell whether this is a LAMB or a LARS.", "Say it with --family.")


def _settings(assignments: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not (name and separator):
            raise UserError(f"{assignment!r} is no setting.", "Write --set name=value.")
        if name == "lr" or name in KEYWORDS["weight_decay"]:
            raise UserError(f"{name} is what the checks vary.", f"Leave out --set {assignment}.")
        try:
            settings[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            settings[name] = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    return settings
