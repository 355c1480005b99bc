"""A byte-level language model with a multiplicative LSTM.

Puri et al. 2018 (arXiv 1808.01371) and Radford et al. 2017 (arXiv 1704.01444): embedding → one multiplicative LSTM →
256 logits, weight normalisation on the cell's four matrices only.

Shape suffixes: T time, B lanes, D embedding width, H hidden, L layers, V = 256.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.gates import MultiplicativeGates
from overnight.nn.recurrence import Path, Recurrent

BYTES = 256
Carry = Mapping[str, Tensor]


class ByteLM(nn.Module):
    """Bytes in, logits over the next byte out; the recurrent state is carried by the caller.

    With the defaults and ``hidden_size=4096`` it has the paper's 86,319,360 parameters.

    Args:
        hidden_size: H.
        embedding_size: D; the paper's is 64.
        layers: recurrent layers, each reading the one below.
        weight_norm: on the four matrices of each cell, per output unit; not on the embedding or the output.
        init: initial values of the recurrent weights (see ``overnight.nn.init``).
        forget_bias: initial bias of the forget gate; the paper has 0.
        path: how the recurrence runs (see ``overnight.nn.recurrence.Recurrent``).
        chunk: steps whose activations are kept at once: less memory, more time (see the same); None keeps all.

    Raises:
        UserError: if a size or ``chunk`` is less than 1, or ``init`` or ``path`` is not known.

    Example:
        >>> model = ByteLM(hidden_size=32)
        >>> logits, carry = model(torch.zeros(7, 2, dtype=torch.long))
        >>> logits.shape, carry["c"].shape
        (torch.Size([7, 2, 256]), torch.Size([2, 1, 32]))
    """

    def __init__(
        self,
        hidden_size: int = 4096,
        embedding_size: int = 64,
        layers: int = 1,
        *,
        weight_norm: bool = True,
        init: str = "uniform",
        forget_bias: float = 0.0,
        path: Path = "auto",
        chunk: int | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("hidden_size", hidden_size), ("embedding_size", embedding_size), ("layers", layers)):
            if value < 1:
                raise UserError(f"A byte model cannot have {name}={value}.", f"{name} must be at least 1.")
        self.hidden_size = hidden_size
        self.embedding = nn.Embedding(BYTES, embedding_size)
        widths = [embedding_size] + [hidden_size] * (layers - 1)
        self.layers = nn.ModuleList(
            Recurrent(
                MultiplicativeGates(width, hidden_size, weight_norm=weight_norm, init=init, forget_bias=forget_bias),
                path,
                chunk=chunk,
            )
            for width in widths
        )
        self.output = nn.Linear(hidden_size, BYTES)
        nn.init.zeros_(self.output.bias)

    def initial_carry(self, lanes: int) -> dict[str, Tensor]:
        """The zero state: ``h`` and ``c``, each [B, L, H] float32, lanes first so that it can be cut by lane."""
        shape = (lanes, len(self.layers), self.hidden_size)
        weight = self.output.weight
        return {name: torch.zeros(shape, dtype=torch.float32, device=weight.device) for name in ("h", "c")}

    def hidden(
        self, ids_TB: Tensor, carry: Carry | None = None, reset_TB: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Bytes → the last layer's h [T, B, H] and the new carry."""
        if carry is None:
            carry = self.initial_carry(ids_TB.shape[1])
        h_last, c_last = [], []
        x = ids_TB
        for index, layer in enumerate(self.layers):
            state = carry["h"][:, index], carry["c"][:, index]
            if index == 0 and isinstance(layer, Recurrent):
                x, (h_BH, c_BH) = layer.look_up(ids_TB, self.embedding.weight, state, reset_TB)
            else:
                x, (h_BH, c_BH) = layer(x, state, reset_TB)
            h_last.append(h_BH.float())
            c_last.append(c_BH)
        return x, {"h": torch.stack(h_last, 1), "c": torch.stack(c_last, 1)}

    def forward(
        self, ids_TB: Tensor, carry: Carry | None = None, reset_TB: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Bytes [T, B] → logits [T, B, 256] for the byte after each, and the new carry.

        Args:
            ids_TB: integer bytes, 0…255.
            carry: state after the bytes before these; None means zeros.
            reset_TB: True where the state is zeroed before reading that byte.
        """
        h_TBH, carry = self.hidden(ids_TB, carry, reset_TB)
        return self.output(h_TBH), carry
