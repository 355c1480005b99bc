"""What a recurrent layer asks of a gate map. Shape suffixes as in ``overnight.nn.gates``."""

from typing import Protocol

import torch
from torch import Tensor

from overnight.errors import UserError


class Folded(Protocol):
    """A gate map's weights, ready for one call."""

    def project(self, x: Tensor) -> Tensor:
        """x [..., D] → everything that does not depend on h, [..., P]."""

    def preactivation(self, p_BP: Tensor, h_BN: Tensor) -> Tensor:
        """One step: projected input and last output → z [B, 4H], gates in the order i, f, g, o."""


class GateMap(Protocol):
    """What a recurrent layer asks of a gate map: its sizes, how its weights start, and its folded form."""

    input_size: int
    hidden_size: int
    output_size: int
    weight_norm: bool
    init: str

    def fold(self, dtype: torch.dtype) -> Folded:
        """Apply weight normalisation and cast, once per call."""


def width_of_h(input_size: int, hidden_size: int, output_size: int | None) -> int:
    """``output_size``, or ``hidden_size`` where it is None.

    Raises:
        UserError: if a size is less than 1.
    """
    width = hidden_size if output_size is None else output_size
    for name, size in (("input_size", input_size), ("hidden_size", hidden_size), ("output_size", width)):
        whole_number(name, size)
    return width


def whole_number(name: str, value: object) -> None:
    """Raise a UserError unless it is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"A gate map cannot have {name}={value!r}.", f"{name} must be a whole number of at least 1.")
