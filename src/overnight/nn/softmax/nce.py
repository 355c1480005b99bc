"""Noise-contrastive estimation: telling the next word from drawn noise, with a softmax that is never summed."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.nn.softmax.candidates import SampledOutput, row_loss
from overnight.nn.softmax.chunked import slices


class NCE(SampledOutput):
    """Noise-contrastive estimation with the normaliser fixed at 1, exact (normalised) in evaluation.

        loss = - Σ_n [ log σ(Δ_nt) + Σ_s log σ(-Δ_ns) ],   Δ_nw = w_w·h_n + b_w - log E_w

    s runs over the drawn words, the same for all tokens; E_w = S q_w, or the probability of being drawn where they are
    drawn without replacement. A drawn word that happens to be the target stays noise, as the estimate requires.

    The bias starts at -log V, so that the unnormalised probabilities sum to about 1 from the start. The loss is that of
    a classifier: compare models by ``exact``.

    Args:
        hidden_size, vocab_size, bias, weight, chunk, samples, sampler, unique, seed, sparse, per_step: see
            ``LinearOutput`` and ``SampledOutput``.

    Raises:
        UserError: see ``SampledOutput``.

    >>> output = NCE(8, 1000, samples=25, unique=False)
    >>> output(torch.randn(20, 8), torch.arange(20)).backward()

    Sources: Gutmann and Hyvärinen 2010; Mnih and Teh 2012 (1206.6426), who draw 25 words from the unigram distribution.
    """

    def __init__(self, hidden_size: int, vocab_size: int, *, samples: int = 8192, **options: Any) -> None:
        super().__init__(hidden_size, vocab_size, samples=samples, **options)
        if self.bias is not None:
            nn.init.constant_(self.bias, -math.log(vocab_size))

    def loss_of_draw(self, h_ND: Tensor, targets_N: Tensor) -> Tensor:
        """The summed loss of these tokens against words drawn for all of them."""
        found = self.draw(targets_N)
        targets_N1 = found.targets_N[:, None]

        def criterion(delta_NR: Tensor, needs_gradient: bool) -> tuple[Tensor, Tensor]:
            times_R = found.times_R.to(delta_NR.dtype)
            own_N1 = delta_NR.gather(1, targets_N1)
            loss = F.softplus(-own_N1).sum()
            for part in slices(delta_NR):
                loss = loss + (F.softplus(part) @ times_R).sum()
            if needs_gradient:
                delta_NR.sigmoid_().mul_(times_R)
                delta_NR.scatter_add_(1, targets_N1, -torch.sigmoid(-own_N1))
            return loss, delta_NR

        return row_loss(h_ND, self.weight, self.bias, found.ids_R, -found.log_expected_R, criterion, sparse=self.sparse)
