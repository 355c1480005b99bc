"""Which fast path serves a gate map. A fast path has the readable recurrence's signature."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from overnight.nn.fast.multiplicative import multiplicative_sequence
from overnight.nn.gates import FoldedMultiplicative

Sequence = Callable[[Any, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor]]


def find(folded: object) -> Sequence | None:
    """The fast path for these folded weights, or None."""
    return multiplicative_sequence if isinstance(folded, FoldedMultiplicative) else None
