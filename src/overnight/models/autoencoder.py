"""A deep autoencoder of ratings (Kuchaiev and Ginsburg 2017, arXiv 1708.01715) whose pass costs O(ratings).

Shape suffixes: B users, N ratings of all of them, n items, M some of the items, H first hidden width, D last.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.gathered import gathered_product

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "selu": F.selu,
    "elu": F.elu,
    "lrelu": F.leaky_relu,
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "swish": F.silu,
    "none": lambda x: x,
}


class RatingAutoencoder(nn.Module):
    """A user's ratings → what the user would give every item.

    z = act(Wx + b), layer after layer, n → hidden → n: the encoder as ``hidden`` says, the decoder its mirror, dropout
    on the code between them. x holds the ratings and 0 elsewhere; the first product takes the rows of W that were
    rated, the last computes the outputs that are asked for, so neither touches the other items. Which items are rated
    is said by their being listed: a rating may be 0 or negative.

    With ``biases`` the net sees and predicts what μ + b_u + b_i leaves, divided by ``scale``. μ and b_i are learned;
    b_u = Σ (r - μ - b_i) / (damping + count) over the ratings shown, so that a new user has one too.

    With ``implicit`` the net also sees which items were rated, whatever the rating (Koren 2008): Vm / √count is added
    to Wx, m being 1 for these and 0 elsewhere. A rating that is as expected says nothing through x, but does through m.

    The paper's models have an activation on the last layer as well (``last_activation``), which one of a narrow range
    (sigmoid, tanh, relu6) does not allow. Weights start as Xavier's uniform, biases at 0.

    Args:
        items: n.
        hidden: widths of the encoder's layers, the code the last.
        dropout: on the code; no other layer has any, as it did not help the authors.
        activation: selu, elu, lrelu, relu, relu6, sigmoid, tanh, swish or none.
        last_activation: whether the output has one.
        tied: the decoder's weights are the encoder's, transposed.
        biases: learn μ and b_i, and derive b_u.
        mean: μ at the start.
        damping: ratings that b_u is pulled towards 0 by.
        scale: of the net's input and output.
        normalized: divide a user's input by √count, so that it does not grow with the number of ratings.
        implicit: have V.
        bounds: lowest and highest rating that ``forward`` answers in evaluation mode; ``at`` and ``dense`` do not
            stop there, so that a list of the best items has an order.

    Raises:
        UserError: for sizes or an activation that cannot be, and in a call for items that there are not.

    Example:
        >>> model = RatingAutoencoder(17_768)
        >>> sum(p.numel() for p in model.parameters())
        19788136
        >>> small = RatingAutoencoder(5, (4, 3)).eval()
        >>> offset_B, item_N, value_N = torch.tensor([0, 2, 3]), torch.tensor([0, 4, 1]), torch.tensor([5.0, 0.0, -1.0])
        >>> small(offset_B, item_N, value_N).shape, small.dense(small.hidden(offset_B, item_N, value_N)).shape
        (torch.Size([3]), torch.Size([2, 5]))
    """

    def __init__(
        self,
        items: int,
        hidden: Sequence[int] = (512, 512, 1024),
        *,
        dropout: float = 0.8,
        activation: str = "selu",
        last_activation: bool = True,
        tied: bool = False,
        biases: bool = False,
        mean: float = 0.0,
        damping: float = 10.0,
        scale: float = 1.0,
        normalized: bool = False,
        implicit: bool = False,
        bounds: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        if items < 1 or not hidden or min(hidden) < 1:
            raise UserError(
                f"An autoencoder of {items} items and layers {tuple(hidden)} cannot be.", "Take at least 1."
            )
        if activation not in ACTIVATIONS:
            raise UserError(f"activation={activation!r} is not known.", f"Choose one of {', '.join(ACTIVATIONS)}.")
        if not 0.0 <= dropout < 1.0 or not scale > 0 or not damping >= 0:
            raise UserError(
                f"dropout={dropout}, scale={scale} and damping={damping} cannot be.",
                "Take dropout from 0 to below 1, scale above 0 and damping of at least 0.",
            )
        if bounds is not None and not bounds[0] <= bounds[1]:
            raise UserError(f"bounds={bounds} cannot be.", "Give the lowest and the highest rating.")
        self.items, self.dropout, self.damping, self.scale = items, dropout, damping, scale
        self.activation, self.last_activation, self.tied = activation, last_activation, tied
        self.normalized = normalized
        self.bounds = None if bounds is None else (bounds[0], bounds[1])
        self.activate = ACTIVATIONS[activation]
        widths = tuple(hidden)
        self.input = nn.Parameter(torch.empty(items, widths[0]))
        self.implicit = nn.Parameter(torch.empty(items, widths[0])) if implicit else None
        self.input_bias = nn.Parameter(torch.zeros(widths[0]))
        self.encoder = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        back = widths[::-1]
        if tied:
            self.decoder_biases = nn.ParameterList(nn.Parameter(torch.zeros(b)) for b in back[1:])
        else:
            self.decoder = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(back))
            self.output = nn.Parameter(torch.empty(items, widths[0]))
        self.output_bias = nn.Parameter(torch.zeros(items))
        self.mean = nn.Parameter(torch.tensor(float(mean))) if biases else None
        self.item_bias = nn.Parameter(torch.zeros(items)) if biases else None
        for weight in [p for p in self.parameters() if p.dim() == 2]:
            nn.init.xavier_uniform_(weight)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)

    def forward(
        self,
        offset_B: Tensor,
        item_N: Tensor,
        value_N: Tensor,
        wanted_offset_B: Tensor | None = None,
        wanted_item_N: Tensor | None = None,
    ) -> Tensor:
        """Predictions of some of the users' items.

        Args:
            offset_B: [B + 1], where each user's ratings start, and the end.
            item_N, value_N: the ratings shown; a user may have none.
            wanted_offset_B, wanted_item_N: the items asked for, laid out alike; None asks for those shown.

        Returns:
            [N] (of those asked for).
        """
        if wanted_offset_B is None or wanted_item_N is None:
            wanted_offset_B, wanted_item_N = offset_B, item_N
        state = self.hidden(offset_B, item_N, value_N)
        said_N = self.at(state, wanted_offset_B, wanted_item_N)
        return said_N if self.training or self.bounds is None else said_N.clamp(*self.bounds)

    def hidden(self, offset_B: Tensor, item_N: Tensor, value_N: Tensor) -> tuple[Tensor, Tensor]:
        """The last hidden layer [B, D] and b_u [B] (zeros without biases) of users' ratings."""
        self._check(item_N)
        row_N, count_B = rows_of(offset_B, len(item_N)), offset_B.diff().to(self.input.dtype)
        rest_N, user_bias_B = value_N.to(self.input.dtype), self.input.new_zeros(len(offset_B) - 1)
        if self.mean is not None and self.item_bias is not None:
            rest_N = rest_N - self.mean - self.item_bias[item_N]
            user_bias_B = user_bias_B.index_add(0, row_N, rest_N) / (count_B + self.damping).clamp_min(1e-12)
            rest_N = rest_N - user_bias_B[row_N]
        if self.normalized:
            rest_N = rest_N / count_B.sqrt()[row_N]
        rest_N = rest_N / self.scale
        z_BH = F.embedding_bag(item_N, self.input, offset_B[:-1], mode="sum", per_sample_weights=rest_N)
        if self.implicit is not None:
            rated_BH = F.embedding_bag(item_N, self.implicit, offset_B[:-1], mode="sum")
            z_BH = z_BH + rated_BH / count_B.clamp_min(1).sqrt()[:, None]
        return self._through(z_BH), user_bias_B

    def hidden_dense(self, value_BM: Tensor, item_M: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The same of users who rated all of the items, or all of ``item_M``."""
        rest_BM, user_bias_B = value_BM.to(self.input.dtype), self.input.new_zeros(len(value_BM))
        if self.mean is not None and self.item_bias is not None:
            bias_M = self.item_bias if item_M is None else self.item_bias[item_M]
            rest_BM = rest_BM - self.mean - bias_M
            user_bias_B = rest_BM.sum(1) / (rest_BM.shape[1] + self.damping)
            rest_BM = rest_BM - user_bias_B[:, None]
        if self.normalized:
            rest_BM = rest_BM / rest_BM.shape[1] ** 0.5
        weight_MH = self.input if item_M is None else self.input[item_M]
        z_BH = (rest_BM / self.scale) @ weight_MH
        if self.implicit is not None:
            rated_MH = self.implicit if item_M is None else self.implicit[item_M]
            z_BH = z_BH + rated_MH.sum(0) / len(rated_MH) ** 0.5
        return self._through(z_BH), user_bias_B

    def at(self, hidden: tuple[Tensor, Tensor], offset_B: Tensor, item_N: Tensor) -> Tensor:
        """Predictions [N] of the items asked for, from what ``hidden`` gave."""
        self._check(item_N)
        state_BD, user_bias_B = hidden
        weight = self.input if self.tied else self.output
        out_N = gathered_product(state_BD, weight, offset_B, item_N) + self.output_bias[item_N]
        out_N = self._last(out_N)
        if self.mean is None or self.item_bias is None:
            return out_N
        return out_N + self.mean + self.item_bias[item_N] + user_bias_B[rows_of(offset_B, len(item_N))]

    def dense(self, hidden: tuple[Tensor, Tensor], item_M: Tensor | None = None) -> Tensor:
        """Predictions [B, n] of all items, or [B, M] of ``item_M``, from what ``hidden`` gave."""
        state_BD, user_bias_B = hidden
        weight: Tensor = self.input if self.tied else self.output
        bias: Tensor = self.output_bias
        if item_M is not None:
            weight, bias = weight[item_M], bias[item_M]
        out_BM = self._last(F.linear(state_BD, weight, bias))
        if self.mean is None or self.item_bias is None:
            return out_BM
        item_bias = self.item_bias if item_M is None else self.item_bias[item_M]
        return out_BM + self.mean + item_bias + user_bias_B[:, None]

    def _through(self, z_BH: Tensor) -> Tensor:
        """From the first product to the last hidden layer."""
        z = self.activate(z_BH + self.input_bias)
        for layer in self.encoder:
            z = self.activate(layer(z))
        z = F.dropout(z, self.dropout, self.training)
        if not self.tied:
            for layer in self.decoder:
                z = self.activate(layer(z))
            return z
        layers: list[Any] = list(self.encoder)
        for layer, bias in zip(reversed(layers), self.decoder_biases, strict=True):
            z = self.activate(F.linear(z, layer.weight.t(), bias))
        return z

    def _last(self, out: Tensor) -> Tensor:
        out = self.activate(out) if self.last_activation else out
        return out * self.scale

    def _check(self, item_N: Tensor) -> None:
        if item_N.device.type == "cpu" and len(item_N) and not 0 <= int(item_N.min()) <= int(item_N.max()) < self.items:
            raise UserError(
                f"There is an item {int(item_N.max())}; this model knows 0 to {self.items - 1}.",
                "Leave out items that it was not trained on.",
            )


def rows_of(offset_B: Tensor, total: int) -> Tensor:
    """The row of each rating.

    >>> rows_of(torch.tensor([0, 2, 2, 3]), 3).tolist()
    [0, 0, 2]
    """
    rows_B = torch.arange(len(offset_B) - 1, device=offset_B.device)
    return rows_B.repeat_interleave(offset_B.diff(), output_size=total)
