"""GNMT's decoder: attention from the bottom layer, its context given to all layers above.

Shape suffixes: U target steps, B sentences, E embedding width, H units.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.attention import AdditiveAttention, Memory
from overnight.nn.gates import DenseGates
from overnight.nn.recurrence import Path, Recurrent

State = tuple[Tensor, Tensor]


class GNMTDecoder(nn.Module):
    """Layer 1 reads the words; its output asks the attention; the layers above read [x ; context], and from the third
    on  x ← x + LSTM([x ; context]).

    Wu et al. 2016 ask with the layer 1 of the step before and feed the context to layer 1 as well; "GNMT v2" asks with
    that of the step itself and does not, so that whole sentences run at once in training. This is the second.

    Args:
        input_size: E.
        hidden_size: H.
        layers: at least 2.
        dropout: probability, on the input of every layer but for the context.
        init_range, attention_gain: of the attention (``init_range``, ``gain``).
        path: see ``overnight.nn.recurrence.Recurrent``.

    Raises:
        UserError: for fewer than 2 layers, or sizes below 1.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        layers: int,
        *,
        dropout: float = 0.0,
        init_range: float = 0.1,
        attention_gain: float | None = None,
        path: Path = "auto",
    ) -> None:
        super().__init__()
        if layers < 2:
            raise UserError(f"GNMT's decoder cannot have layers={layers}.", "The second layer reads the context.")
        self.dropout = dropout
        self.first = Recurrent(DenseGates(input_size, hidden_size), path)
        self.attention = AdditiveAttention(
            hidden_size, hidden_size, hidden_size, gain=attention_gain, init_range=init_range
        )
        self.layers = nn.ModuleList(
            Recurrent(DenseGates(2 * hidden_size, hidden_size), path) for _ in range(layers - 1)
        )

    def forward(
        self, x_UBE: Tensor, memory: Memory, state: Sequence[State] | None = None
    ) -> tuple[Tensor, tuple[State, ...], Tensor]:
        """Embeddings of the words so far → the top layer's output [U, B, H], every layer's last (h, c), and the
        attention's weights [U, B, T].

        Args:
            x_UBE: embeddings; padded at the end.
            memory: of the source (``attention.memory``).
            state: every layer's (h, c) after the words before these, bottom first; None means zeros.
        """
        states = [None] * (1 + len(self.layers)) if state is None else list(state)
        x, new = self.first(F.dropout(x_UBE, self.dropout, self.training), states[0])
        last = [new]
        context_UBH, weights_UBT = self.attention(x, memory)
        for index, layer in enumerate(self.layers):
            joined = torch.cat([F.dropout(x, self.dropout, self.training), context_UBH.to(x.dtype)], 2)
            h_UBH, new = layer(joined, states[index + 1])
            x = x + h_UBH if index else h_UBH
            last.append(new)
        return x, tuple(last), weights_UBT
