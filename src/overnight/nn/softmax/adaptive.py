"""The adaptive softmax: frequent words first, rarer ones in clusters of falling width."""

from collections.abc import Sequence

import torch  # noqa: F401 (example)
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.softmax.base import Output


class AdaptiveSoftmax(Output):
    """torch's ``nn.AdaptiveLogSoftmaxWithLoss``: a normalised model of its own, so its training loss is exact.

    Args:
        hidden_size: D.
        vocab_size: V, ids by falling frequency.
        cutoffs: ids at which clusters begin, rising; the words below the first are the head.
        div_value: cluster i has width D / div_value^i.
        bias: of the head; clusters have none.
        weight: must be None: clusters have weights of other widths, which cannot be tied.

    Attributes:
        adaptive: torch's module.

    Raises:
        UserError: as ``Output``; for cutoffs that do not rise or lie outside 1…V-1, for clusters of no width, and for a
            tied weight.

    >>> output = AdaptiveSoftmax(16, 1000, cutoffs=[100, 400])
    >>> output(torch.randn(20, 16), torch.arange(0, 1000, 50)).backward()

    Source: Grave et al. 2017 (1609.04309).
    """

    def __init__(
        self,
        hidden_size: int,
        vocab_size: int,
        *,
        cutoffs: Sequence[int],
        div_value: float = 4.0,
        bias: bool = True,
        weight: nn.Parameter | None = None,
    ) -> None:
        if weight is not None:
            raise UserError("An adaptive softmax cannot be tied to an embedding.", "Leave tying off.")
        ends = list(cutoffs)
        whole = all(isinstance(end, int) and not isinstance(end, bool) for end in ends)
        if not ends or not whole or sorted(set(ends)) != ends or ends[0] < 1 or ends[-1] >= vocab_size:
            raise UserError(
                f"cutoffs={ends} do not cut {vocab_size:,} words.",
                f"Give rising whole numbers between 1 and {vocab_size - 1}.",
            )
        if div_value <= 0 or hidden_size // div_value ** len(ends) < 1:
            raise UserError(
                f"Cluster {len(ends)} of an adaptive softmax has no width: {hidden_size} / {div_value:g}^{len(ends)}.",
                "Give fewer cutoffs or a smaller div_value.",
            )
        super().__init__(hidden_size, vocab_size)
        self.adaptive = nn.AdaptiveLogSoftmaxWithLoss(hidden_size, vocab_size, ends, div_value, head_bias=bias)

    def loss(self, h: Tensor, targets: Tensor) -> Tensor:
        """The exact one."""
        return self.exact(h, targets)

    def exact(self, h: Tensor, targets: Tensor) -> Tensor:
        """The summed exact negative log-likelihood in nats."""
        self._check(h, targets)
        of_targets: Tensor = self.adaptive(h.flatten(0, -2), targets.flatten()).output
        return -of_targets.sum()

    def log_prob(self, h: Tensor) -> Tensor:
        """Log-probabilities of all words, [N, D] → [N, V]."""
        self._check(h, None)
        found: Tensor = self.adaptive.log_prob(h)
        return found
