"""The sampled softmax: a softmax over the targets and some drawn words, corrected for how they were drawn."""

from typing import Any, Literal

import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.nn.softmax.candidates import SampledOutput, row_loss
from overnight.nn.softmax.chunked import log_softmax_

Certain = Literal["batch", "target", "none"]


class SampledSoftmax(SampledOutput):
    """The sampled softmax with -log q correction, exact in evaluation.

        loss = Σ_n log Σ_{c ∈ C_n} exp(o_c) - o_t,   o_c = w_c·h_n + b_c - log E_c

    C_n are the drawn words and the token's target t, once: a drawn word that is the target (accidental hit) is not
    counted against it. E_c is the expected count of c: how probable it was to be drawn, or 1 for a certain candidate.
    With S = V this is the full softmax, exactly.

    Args:
        hidden_size, vocab_size, bias, weight, chunk, samples, sampler, unique, seed, sparse, per_step: see
            ``LinearOutput`` and ``SampledOutput``.
        certain: which candidates are certain, so that nothing is subtracted from their logits. ``batch``: all targets
            of the call are candidates of all its tokens, at no further cost, and certain. ``target``: a token's own
            target is. ``none``: not even that; the correction of TensorFlow's ``sampled_softmax_loss`` and of Jean et
            al. With the first two, the sum over C_n is an unbiased estimate of the sum over V, so the gradient is the
            full softmax's but for a bias that falls as 1/S; with ``none`` only its optimum is.

    Raises:
        UserError: see ``SampledOutput``; for an unknown ``certain``.

    >>> output = SampledSoftmax(8, 1000, samples=50)
    >>> output(torch.randn(20, 8), torch.arange(20)).backward()
    >>> 50 <= output.weight.grad.coalesce().values().shape[0] <= 70
    True

    Sources: Jean et al. 2015 (1412.2007); Józefowicz et al. 2016 (1602.02410); Blanc and Rendle 2018 (1712.00527).
    """

    def __init__(
        self, hidden_size: int, vocab_size: int, *, samples: int = 8192, certain: Certain = "batch", **options: Any
    ) -> None:
        if certain not in ("batch", "target", "none"):
            raise UserError(f"certain={certain!r} is not known.", "Choose batch, target or none.")
        super().__init__(hidden_size, vocab_size, samples=samples, **options)
        self.certain = certain

    def loss_of_draw(self, h_ND: Tensor, targets_N: Tensor) -> Tensor:
        """The summed loss of these tokens over words drawn for all of them."""
        found = self.draw(targets_N)
        targets_N1 = found.targets_N[:, None]
        # a word drawn m times counts m times
        shift_R = torch.where(found.times_R > 0, found.times_R.log() - found.log_expected_R, 0.0)
        if self.certain == "batch":
            shift_R[found.targets_U] = 0.0
        of_targets_N1 = shift_R[targets_N1]
        own_N1 = -found.log_expected_R[targets_N1] if self.certain == "none" else torch.zeros_like(of_targets_N1)
        undrawn = (found.times_R == 0).nonzero()[:, 0]

        def criterion(logits_NR: Tensor, needs_gradient: bool) -> tuple[Tensor, Tensor]:
            if self.certain != "batch":
                own = logits_NR.gather(1, targets_N1) + (own_N1 - of_targets_N1).to(logits_NR.dtype)
                logits_NR.index_fill_(1, undrawn, -torch.inf)
                logits_NR.scatter_(1, targets_N1, own)
            log_p_NR = log_softmax_(logits_NR)
            loss = -log_p_NR.gather(1, targets_N1).sum()
            if needs_gradient:
                log_p_NR.exp_()
                log_p_NR.scatter_add_(1, targets_N1, log_p_NR.new_full((1, 1), -1.0).expand_as(targets_N1))
            return loss, log_p_NR

        return row_loss(h_ND, self.weight, self.bias, found.ids_R, shift_R, criterion, sparse=self.sparse)
