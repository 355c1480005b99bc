"""The pointwise cell of a step and its gradient, in eager operations over buffers that are kept for the whole sequence.

    c ← σ(f) c + σ(i) tanh(g);   y = σ(o) tanh(c)

Mixed-dtype operations convert through temporaries, so all works in one float32 scratch a step, whatever the products'
dtype. Shape suffixes as in ``overnight.nn.gates``.
"""

import torch
from torch import Tensor

tanh_backward = torch.ops.aten.tanh_backward.grad_input
sigmoid_backward = torch.ops.aten.sigmoid_backward.grad_input


class EagerCell:
    """One cell for all steps of a call.

    Args:
        c_BH: a cell state, for its shape, dtype and device.
        products: dtype of the products. Where it is narrower than float32, tanh x is taken as 2 σ(2x) - 1: within
            2e-7, which bf16 does not see, and four times as fast on a CPU.
    """

    def __init__(self, c_BH: Tensor, products: torch.dtype) -> None:
        self.narrow = products in (torch.bfloat16, torch.float16)
        self.minus_one = -c_BH.new_ones(())
        batch, hidden = c_BH.shape
        self.gates, self.dgates = c_BH.new_empty(batch, 4 * hidden), c_BH.new_empty(batch, 4 * hidden)
        self.hidden = hidden
        self.tanh, self.scratch, self.dy = (torch.empty_like(c_BH) for _ in range(3))

    def forward(
        self,
        z: Tensor,
        c_last_BH: Tensor,
        c_out_BH: Tensor,
        z_out_BG: Tensor,
        y_out_BH: Tensor,
        reset_B1: Tensor | None = None,
    ) -> None:
        """Write the new c, the activated gates (which the backward wants in the place of z) and y.

        Args:
            z: pre-activations, [B, 4H] or any shape of as many elements in that order.
            c_last_BH: before the step, without the resets.
            c_out_BH, z_out_BG, y_out_BH: written to.
            reset_B1: True where c is zeroed before the step; None where nowhere.
        """
        gates = self.gates
        gates.view(z.shape).copy_(z)
        i, f, g, o = gates.split(self.hidden, dim=1)
        if self.narrow:
            g.mul_(2)
            gates.sigmoid_()
            torch.add(self.minus_one, g, alpha=2, out=g)
        else:
            gates[:, : 2 * self.hidden].sigmoid_()
            g.tanh_()
            o.sigmoid_()
        z_out_BG.copy_(gates)
        torch.mul(f, c_last_BH if reset_B1 is None else c_last_BH.masked_fill(reset_B1, 0), out=c_out_BH)
        c_out_BH.add_(torch.mul(i, g, out=self.scratch))
        self._tanh(c_out_BH)
        y_out_BH.copy_(self.tanh.mul_(o))

    def backward(
        self,
        z_BG: Tensor,
        c_last_BH: Tensor,
        c_BH: Tensor,
        dy_BH: Tensor,
        dy_more_BH: Tensor | None,
        dc_BH: Tensor,
        dz: Tensor,
        reset_B1: Tensor | None = None,
    ) -> None:
        """Write the gradient of the pre-activations.

        Args:
            z_BG: activated gates of the step.
            c_last_BH, c_BH: before the step, without the resets, and after it.
            dy_BH, dy_more_BH: whose sum is the gradient of y.
            dc_BH: gradient of the new c from the steps after; becomes that of the last c.
            dz: written to, [B, 4H] or any shape of as many elements in that order; may share z's memory.
            reset_B1: as in the forward.
        """
        gates, dgates, hidden, dy = self.gates, self.dgates, self.hidden, self.dy.copy_(dy_BH)
        if dy_more_BH is not None:
            dy.add_(dy_more_BH)
        gates.copy_(z_BG)
        i, f, g, o = gates.split(hidden, dim=1)
        di, df, dg, do = dgates.split(hidden, dim=1)
        self._tanh(c_BH)
        torch.mul(dy, self.tanh, out=do)
        torch.mul(dy, o, out=self.scratch)
        dc_BH.add_(tanh_backward(self.scratch, self.tanh, grad_input=dy))
        torch.mul(dc_BH, c_last_BH if reset_B1 is None else c_last_BH.masked_fill(reset_B1, 0), out=df)
        torch.mul(dc_BH, g, out=di)
        torch.mul(dc_BH, i, out=self.scratch)
        sigmoid_backward(do, o, grad_input=do)
        both = dgates[:, : 2 * hidden]
        sigmoid_backward(both, gates[:, : 2 * hidden], grad_input=both)
        tanh_backward(self.scratch, g, grad_input=dg)
        dc_BH.mul_(f)
        if reset_B1 is not None:
            dc_BH.masked_fill_(reset_B1, 0)
        dz.copy_(dgates.view(dz.shape))

    def scale(self, q_BH: Tensor, p_BH: Tensor, m_out_BH: Tensor) -> None:
        """m = p ⊙ q."""
        torch.mul(q_BH, p_BH, out=m_out_BH)

    def scale_backward(self, dm_BH: Tensor, p_BH: Tensor, q_BH: Tensor, dq_BH: Tensor, dp_BH: Tensor) -> None:
        """dq = dm ⊙ p;  dp = dm ⊙ q."""
        torch.mul(dm_BH, p_BH, out=dq_BH)
        torch.mul(dm_BH, q_BH, out=dp_BH)

    def tensors(self) -> list[Tensor]:
        """The cell's own buffers."""
        return [own for own in vars(self).values() if isinstance(own, Tensor)]

    def _tanh(self, c_BH: Tensor) -> None:
        if self.narrow:
            torch.mul(c_BH, 2, out=self.tanh).sigmoid_()
            torch.add(self.minus_one, self.tanh, alpha=2, out=self.tanh)
        else:
            torch.tanh(c_BH, out=self.tanh)
