"""What of every parameter's gradient is exchanged: all of it, or rows of it, and what becomes of the other rows."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from overnight.errors import UserError

Compensation = Literal["none", "inverse", "residual"]
"""Of rows that are not exchanged. ``none``: their gradients are lost. ``inverse``: lost, and those of a row that is
exchanged by chance are divided by its chance. ``residual``: each rank keeps them, and adds them to the next steps'."""


@dataclass(frozen=True)
class Whole:
    """A gradient that is exchanged whole."""


@dataclass(frozen=True)
class Rows:
    """Rows of a vocabulary: S_t = rows of the batch on any rank ∪ the most frequent ∪ some drawn from (seed, step).

    A parameter with sparse gradients loses nothing: all rows with a gradient on any rank are exchanged, and an output
    layer that samples (``overnight.nn.softmax``) takes the frequent and drawn rows as its samples.

    Args:
        random: share of the rows that are not among the most frequent, drawn anew for every step; in (0, 1].
        frequent: share of the rows, the most frequent ones; in [0, 1).
        touched: all rows with a gradient on any rank belong to S_t. For dense gradients only; a full softmax has one
            in every row, and needs False.
        compensation: of dense gradients; see ``Compensation``.
        counts: how often each row's word occurs; None where ids are by falling frequency.

    Raises:
        UserError: for shares outside their range.
    """

    random: float = 0.1
    frequent: float = 0.0
    touched: bool = True
    compensation: Compensation = "residual"
    counts: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _share("random", self.random)
        if self.frequent != 0.0:
            _share("frequent", self.frequent)
        if self.frequent == 1.0:
            raise UserError("frequent=1.0 leaves no rows to draw.", "Exchange such a parameter whole.")
        _known(self.compensation)

    @cached_property
    def by_frequency(self) -> Tensor | None:
        """Rows by falling count; None where they are so."""
        return None if self.counts is None else torch.argsort(torch.tensor(self.counts), descending=True, stable=True)


@dataclass(frozen=True)
class HiddenRows:
    """Rows of units that take turns: unit j of H is row j of each of ``blocks`` blocks of H rows.

    Their order is drawn from the seed, so a residual waits 1 / rate steps at most. (Drawn anew for every step, some
    would wait several times as long: the byte model of ``benchmarks/parallel`` had 0.9 % more bits after 500 steps.)

    Args:
        rate: share of the units; in (0, 1].
        blocks: 4 for the weights and biases of an LSTM, 3 for those of a GRU, 1 for a linear layer.
        compensation: see ``Compensation``.

    Raises:
        UserError: for a rate outside (0, 1], or less than one block.
    """

    rate: float = 0.5
    blocks: int = 1
    compensation: Compensation = "residual"

    def __post_init__(self) -> None:
        _share("rate", self.rate)
        if isinstance(self.blocks, bool) or not isinstance(self.blocks, int) or self.blocks < 1:
            raise UserError(f"blocks={self.blocks!r} cannot be.", "Give a whole number, such as 4 for an LSTM's gates.")
        _known(self.compensation)


Rule = Whole | Rows | HiddenRows


@dataclass(frozen=True)
class Plan:
    """Which rule each parameter follows, and what all of them share.

    Args:
        rules: pattern of parameter names (as of ``fnmatch``) → rule; the first that matches counts. Without a match, a
            dense gradient is exchanged whole, and of a sparse one the rows that any rank has.
        seed: of the drawn rows.
        dtype: ``bf16`` exchanges bfloat16; ``residual`` keeps what rounding takes away.

    Raises:
        UserError: for an unknown ``dtype``.

    >>> plan = Plan({"rnn.weight_*": HiddenRows(0.5, blocks=4), "output.*": Rows(random=0.08, frequent=0.02)})
    >>> plan.rule("rnn.weight_hh_l0")
    HiddenRows(rate=0.5, blocks=4, compensation='residual')
    >>> plan.rule("rnn.bias_hh_l0") is None
    True
    """

    rules: Mapping[str, Rule] = field(default_factory=dict)
    seed: int = 0
    dtype: Literal["bf16"] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in (None, "bf16"):
            raise UserError(f"dtype={self.dtype!r} is not known.", "Choose bf16, or None for the gradients' own.")

    def rule(self, name: str) -> Rule | None:
        """The rule of a parameter, None without one."""
        return next((rule for pattern, rule in self.rules.items() if fnmatchcase(name, pattern)), None)

    def describe(self) -> dict[str, Any]:
        """Plain data that says the same."""
        rules = {pattern: {"rule": type(rule).__name__} | _plain(rule) for pattern, rule in self.rules.items()}
        return {"rules": rules, "seed": self.seed, "dtype": self.dtype}

    def digest(self) -> str:
        """Identity of the plan, in hex. The order of rules counts, since the first match does."""
        return hashlib.sha256(json.dumps(self.describe()).encode()).hexdigest()

    def check(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Raise a UserError for a rule without parameters, or one that a parameter's shape does not allow."""
        named = list(parameters)
        names = [name for name, _ in named]
        for pattern in self.rules:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise UserError(
                    f"The plan's rule {pattern!r} matches no parameter that is trained.",
                    f"The parameters are {', '.join(names) or 'none at all'}.",
                )
        for name, parameter in named:
            rule = self.rule(name)
            if rule is not None and not isinstance(rule, Whole):
                units(name, parameter, rule)

    def elements(self, named: Iterable[tuple[str, nn.Parameter]], touched: Mapping[str, int] | None = None) -> int:
        """How many numbers of all gradients one step exchanges, Σ_p (rows exchanged) × (numbers of a row).

        Args:
            named: names and parameters.
            touched: name → rows of S_t, for parameters of which the batch has a say (sparse gradients, ``touched``).

        Raises:
            UserError: if such a parameter's number is not given.
        """
        total = 0
        for name, parameter in named:
            rule, rows = self.rule(name), (touched or {}).get(name)
            if rows is not None:
                total += rows * (parameter.numel() // len(parameter))
            elif isinstance(rule, Rows) and rule.touched:
                raise UserError(
                    f"How many rows of {name} a step exchanges depends on its batch.", "Name their number in touched."
                )
            elif rule is None or isinstance(rule, Whole):
                total += parameter.numel()
            else:
                total += exchanged_units(units(name, parameter, rule), rule) * rule_blocks(rule) * _width(parameter)
        return total


def ring_bytes(elements: float, ranks: int, itemsize: int = 4) -> float:
    """Bytes that each of n ranks sends in a ring all-reduce: 2 (n - 1) / n × elements × itemsize.

    >>> ring_bytes(1000, 4)
    6000.0
    """
    return 2 * (ranks - 1) / ranks * elements * itemsize


def rule_blocks(rule: Rows | HiddenRows) -> int:
    """Rows that a unit has."""
    return rule.blocks if isinstance(rule, HiddenRows) else 1


def units(name: str, parameter: Tensor, rule: Rows | HiddenRows) -> int:
    """The number of units among which the rule chooses.

    Raises:
        UserError: for a parameter without rows, or whose rows are not as many in every block.
    """
    blocks, rows = rule_blocks(rule), len(parameter) if parameter.ndim else 0
    if rows < 2:
        raise UserError(
            f"The parameter {name} of shape {list(parameter.shape)} has no rows to choose from.",
            "Let the plan's patterns leave it out.",
        )
    if rows % blocks:
        raise UserError(f"The {rows} rows of {name} are not {blocks} blocks of equal size.", "Set blocks to fit.")
    if isinstance(rule, Rows) and rule.counts is not None and len(rule.counts) != rows:
        raise UserError(
            f"The plan counts {len(rule.counts):,} words, and {name} has {rows:,} rows.",
            "Take the counts of this vocabulary.",
        )
    return rows // blocks


def exchanged_units(count: int, rule: Rows | HiddenRows) -> int:
    """How many of so many units are frequent or drawn."""
    if isinstance(rule, HiddenRows):
        return drawn_units(count, rule.rate)
    frequent = math.floor(rule.frequent * count)
    return frequent + drawn_units(count - frequent, rule.random)


def drawn_units(count: int, rate: float) -> int:
    """How many of so many units are drawn at this rate: at least one."""
    return min(count, max(1, round(rate * count)))


def _width(parameter: Tensor) -> int:
    return parameter.numel() // len(parameter)


def _plain(rule: Rule) -> dict[str, Any]:
    if not isinstance(rule, Rows):
        return asdict(rule)
    plain = {each.name: getattr(rule, each.name) for each in fields(rule)}
    if rule.counts is not None:
        counts = torch.tensor(rule.counts, dtype=torch.float64)
        plain["counts"] = hashlib.sha256(counts.numpy().tobytes()).hexdigest()
    return plain


def _share(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 < value <= 1.0:
        raise UserError(f"{name}={value!r} is not a share of the rows.", f"{name} must be above 0 and at most 1.")


def _known(compensation: str) -> None:
    if compensation not in ("none", "inverse", "residual"):
        raise UserError(f"compensation={compensation!r} is not known.", "Choose none, inverse or residual.")
