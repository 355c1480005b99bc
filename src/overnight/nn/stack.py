"""Recurrent layers on top of each other.

Shape suffixes as in ``overnight.nn.gates``.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.gates import GateMap
from overnight.nn.recurrence import Path, Recurrent

State = tuple[Tensor, Tensor]


class RecurrentStack(nn.Module):
    """Recurrent layers, each reading the one below, with dropout between them; no residual connections.

    Equal to ``nn.LSTM(num_layers=…, dropout=…, proj_size=…)`` where the maps are dense.

    Args:
        gates: one gate map per layer, bottom first; they may differ in kind and size.
        dropout: probability with which an element of what one layer hands to the next is zeroed in training (the others
            are scaled by 1 / (1 - dropout)); the top layer's output is left as it is. Drawn anew for every element and
            step from torch's generator of the device.
        path: how each recurrence runs (see ``overnight.nn.recurrence.Recurrent``).
        chunk: steps whose activations each layer keeps at once (see the same); None keeps all.

    Raises:
        UserError: without a layer, if a map does not take the width of h of the one below, if ``dropout`` is not in
            [0, 1), for an unknown path or a chunk of no steps.

    Example:
        >>> import torch
        >>> from overnight.nn.gates import FactorizedGates
        >>> stack = RecurrentStack([FactorizedGates(8, 32, 8, rank=4) for _ in range(2)], dropout=0.1)
        >>> h, state = stack(torch.randn(5, 3, 8))
        >>> h.shape, [tuple(c.shape) for _, c in state]
        (torch.Size([5, 3, 8]), [(3, 32), (3, 32)])
    """

    def __init__(
        self, gates: Iterable[GateMap], *, dropout: float = 0.0, path: Path = "auto", chunk: int | None = None
    ) -> None:
        super().__init__()
        if isinstance(gates, nn.Module) and not isinstance(gates, nn.ModuleList):
            raise UserError(f"The layers are one {type(gates).__name__}, not a list of gate maps.", "Write [gates].")
        maps = list(gates)
        if not maps:
            raise UserError("A recurrent stack cannot have 0 layers.", "Give at least one gate map.")
        if not 0.0 <= dropout < 1.0:
            raise UserError(f"dropout={dropout} is not a probability below 1.", "Choose from 0 to below 1.")
        for index, (below, above) in enumerate(pairwise(maps), start=1):
            if above.input_size != below.output_size:
                raise UserError(
                    f"Layer {index} takes {above.input_size} inputs; layer {index - 1} hands on {below.output_size}.",
                    f"Give layer {index} input_size={below.output_size}.",
                )
        self.dropout = dropout
        self.layers = nn.ModuleList(Recurrent(one, path, chunk=chunk) for one in maps)

    def forward(
        self, x_TBD: Tensor, state: Sequence[State] | None = None, reset_TB: Tensor | None = None
    ) -> tuple[Tensor, tuple[State, ...]]:
        """x [T, B, D] and (h, c) of every layer → the top layer's h [T, B, N] and the last (h, c) of every layer.

        Args:
            x_TBD: input of the bottom layer.
            state: one (h [B, N], c [B, H]) per layer, bottom first; None means zeros.
            reset_TB: True where the state of every layer is zeroed before the step.

        Raises:
            ValueError: for a state of another number of layers, or a wrong shape or kind (see ``Recurrent``).
        """
        if state is not None and len(state) != len(self.layers):
            raise ValueError(f"The state is of {len(state)} layers; the stack has {len(self.layers)}.")
        last: list[State] = []
        for index, layer in enumerate(self.layers):
            if index:
                x_TBD = F.dropout(x_TBD, self.dropout, self.training)
            x_TBD, new = layer(x_TBD, None if state is None else state[index], reset_TB)
            last.append(new)
        return x_TBD, tuple(last)
