"""GNMT's encoder: a first layer that reads both ways, then residual layers.

Shape suffixes: T source steps, B sentences, E embedding width, H units.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.gates import DenseGates
from overnight.nn.recurrence import Path, Recurrent


def reversed_steps(x_TB: Tensor, length_B: Tensor) -> Tensor:
    """Each sentence's own steps in reverse order, its padding left where it is: its own inverse.

    >>> reversed_steps(torch.arange(4).view(4, 1, 1).expand(4, 2, 1), torch.tensor([4, 2])).squeeze(2).T
    tensor([[3, 2, 1, 0],
            [1, 0, 2, 3]])
    """
    steps_T1 = torch.arange(len(x_TB), device=x_TB.device).unsqueeze(1)
    source_TB = torch.where(steps_T1 < length_B, length_B - 1 - steps_T1, steps_T1)
    return x_TB.gather(0, source_TB.unsqueeze(2).expand_as(x_TB))


class GNMTEncoder(nn.Module):
    """Wu et al. 2016 (arXiv 1609.08144), section 3.2: layer 1 in both directions, layer 2 on both outputs, and from the
    third on  x ← x + LSTM(x).

    Dropout on the input of every layer. Padding stands behind a sentence's end: no step of the sentence sees it.

    Args:
        input_size: E.
        hidden_size: H.
        layers: at least 2, counting the first as one.
        dropout: probability.
        path: see ``overnight.nn.recurrence.Recurrent``.

    Raises:
        UserError: for fewer than 2 layers, or sizes below 1.
    """

    def __init__(
        self, input_size: int, hidden_size: int, layers: int, *, dropout: float = 0.0, path: Path = "auto"
    ) -> None:
        super().__init__()
        if layers < 2:
            raise UserError(
                f"GNMT's encoder cannot have layers={layers}.", "The second layer joins the two directions."
            )
        self.dropout = dropout
        self.onward = Recurrent(DenseGates(input_size, hidden_size), path)
        self.backward_ = Recurrent(DenseGates(input_size, hidden_size), path)
        widths = [2 * hidden_size] + [hidden_size] * (layers - 2)
        self.layers = nn.ModuleList(Recurrent(DenseGates(width, hidden_size), path) for width in widths)

    def forward(self, x_TBE: Tensor, length_B: Tensor) -> Tensor:
        """Embeddings → one vector a word [T, B, H]; what stands behind a sentence's end means nothing.

        Args:
            x_TBE: padded at the end.
            length_B: words of each sentence.
        """
        x = F.dropout(x_TBE, self.dropout, self.training)
        onward_TBH, _ = self.onward(x)
        backward_TBH, _ = self.backward_(reversed_steps(x, length_B))
        x = torch.cat([onward_TBH, reversed_steps(backward_TBH, length_B)], 2)
        for index, layer in enumerate(self.layers):
            h_TBH, _ = layer(F.dropout(x, self.dropout, self.training))
            x = x + h_TBH if index else h_TBH
        return x
