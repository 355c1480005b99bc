"""The softmax over all words."""

import torch  # noqa: F401 (example)
from torch import Tensor

from overnight.nn.softmax.base import LinearOutput


class FullSoftmax(LinearOutput):
    """The softmax over all words, in chunks of tokens so that [N, V] logits never exist at once.

        loss = Σ_n log Σ_v exp(w_v·h_n + b_v) - (w_t·h_n + b_t),   t = target of n

    Gradients are made chunk by chunk in the forward, so a training step computes no logits twice.

    Args:
        hidden_size, vocab_size, bias, weight, chunk: see ``LinearOutput``.

    >>> output = FullSoftmax(8, 100, chunk=16)
    >>> output(torch.randn(50, 8), torch.arange(50)).backward()
    >>> output.weight.grad.shape
    torch.Size([100, 8])
    """

    def loss(self, h: Tensor, targets: Tensor) -> Tensor:
        """The exact one."""
        return self.exact(h, targets)
