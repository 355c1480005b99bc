"""The multiplicative LSTM over a whole sequence as one autograd function, in plain PyTorch.

What it saves over autograd on the readable loop: no graph node per operation and step, products written into
preallocated buffers, and both recurrent weight gradients as one product over all T·B rows after the loop instead of
T small ones. Products run in the dtype of ``p`` with float32 accumulation; the cell state and its gradient are float32.

Shape suffixes as in ``overnight.nn.gates``.
"""

from typing import Any

import torch
from torch import Tensor

from overnight.nn.fast.packed import PackedMatrix
from overnight.nn.gates import FoldedMultiplicative


def multiplicative_sequence(
    folded: FoldedMultiplicative, p_TBP: Tensor, h_BH: Tensor, c_BH: Tensor, reset_TB: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The readable recurrence's fast twin for the multiplicative map; same arguments, same results."""
    if p_TBP.shape[0] == 0:
        return p_TBP.new_zeros(0, *h_BH.shape), h_BH.to(p_TBP.dtype), c_BH
    tensors = (p_TBP, h_BH.to(p_TBP.dtype), c_BH, folded.hidden_to_m_HH, folded.m_to_gates_GH)
    keep = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    h_TBH, c_BH = _Sequence.apply(*tensors, reset_TB, keep)  # type: ignore[no-untyped-call]
    return h_TBH, h_TBH[-1], c_BH


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        p_TBP: Tensor,
        h0_BH: Tensor,
        c0_BH: Tensor,
        w_hm_HH: Tensor,
        w_mg_GH: Tensor,
        reset_TB: Tensor | None,
        keep_for_backward: bool,
    ) -> tuple[Tensor, Tensor]:
        time, batch, _ = p_TBP.shape
        hidden = h0_BH.shape[1]
        keeps = _keep_masks(reset_TB, p_TBP.dtype, time)
        h = p_TBP.new_empty(time + 1, batch, hidden)

        def over_time(like: Tensor, steps: int, width: int) -> Tensor:
            # without a backward one step's memory serves all steps
            if keep_for_backward:
                return like.new_empty(steps, batch, width)
            return like.new_empty(1, batch, width).expand(steps, -1, -1)

        c = over_time(c0_BH, time + 1, hidden)
        q = over_time(p_TBP, time, hidden)  # W_mh h
        m = over_time(p_TBP, time, hidden)
        z = over_time(p_TBP, time, 4 * hidden)  # holds the activated gates once the step is done
        # Mixed-dtype operations convert through temporaries, so the cell works in one float32 scratch per step.
        gates = c0_BH.new_empty(batch, 4 * hidden)
        i, f, g, o = gates.split(hidden, dim=1)
        tanh = torch.empty_like(c0_BH)
        ig = torch.empty_like(c0_BH)
        h[0], c[0] = h0_BH, c0_BH
        h_to_m, m_to_gates = PackedMatrix(w_hm_HH, batch), PackedMatrix(w_mg_GH, batch)
        steps = zip(p_TBP.unbind(0), q.unbind(0), m.unbind(0), z.unbind(0), keeps, strict=True)
        hs, cs = h.unbind(0), c.unbind(0)
        for t, (p_t, q_t, m_t, z_t, keep) in enumerate(steps):
            c_last, c_t = cs[t], cs[t + 1]
            q_t.copy_(h_to_m(hs[t]))
            if keep is not None:
                q_t.mul_(keep)
                c_last = c_last * keep
            torch.mul(q_t, p_t[:, 4 * hidden :], out=m_t)
            gates.copy_(m_to_gates.add(p_t[:, : 4 * hidden], m_t))
            gates[:, : 2 * hidden].sigmoid_()
            g.tanh_()
            o.sigmoid_()
            z_t.copy_(gates)
            torch.mul(f, c_last, out=c_t)
            c_t.add_(torch.mul(i, g, out=ig))
            torch.tanh(c_t, out=tanh)
            hs[t + 1].copy_(tanh.mul_(o))
        if keep_for_backward:
            ctx.save_for_backward(p_TBP, w_hm_HH, w_mg_GH, h, c, q, m, z)
            ctx.keeps = keeps
        return h[1:], c[time].clone()

    @staticmethod
    def backward(ctx: Any, dh_TBH: Tensor, dc_BH: Tensor) -> tuple[Tensor | None, ...]:
        # autograd's own once_differentiable lets a loss that is linear in h through, with a wrong second derivative
        if torch.is_grad_enabled():
            raise RuntimeError("The fast multiplicative LSTM has no second derivatives; use path='readable' for them.")
        p_TBP, w_hm_HH, w_mg_GH, h, c, q, m, z = ctx.saved_tensors
        time, batch, hidden = q.shape
        dp = torch.empty_like(p_TBP, memory_format=torch.contiguous_format)
        dq = torch.empty_like(q)
        gates_to_m, m_to_h = PackedMatrix(w_mg_GH.t(), batch), PackedMatrix(w_hm_HH.t(), batch)
        dh_next = dh_TBH.new_zeros(batch, hidden)
        dc = dc_BH.to(c.dtype).clone()
        gates, dgates = c.new_empty(batch, 4 * hidden), c.new_empty(batch, 4 * hidden)
        i, f, g, o = gates.split(hidden, dim=1)
        di, df, dg, do = dgates.split(hidden, dim=1)
        dh, tanh, scratch = torch.empty_like(dc), torch.empty_like(dc), torch.empty_like(dc)
        cs = c.unbind(0)
        steps = zip(
            dh_TBH.unbind(0), p_TBP.unbind(0), q.unbind(0), z.unbind(0), dp.unbind(0), dq.unbind(0), ctx.keeps,
            strict=True,
        )  # fmt: skip
        for t, (dh_out, p_t, q_t, z_t, dp_t, dq_t, keep) in reversed(list(enumerate(steps))):
            gates.copy_(z_t)
            c_last = cs[t] if keep is None else cs[t] * keep
            dh.copy_(dh_out).add_(dh_next)
            torch.tanh(cs[t + 1], out=tanh)
            torch.mul(dh, tanh, out=do)
            torch.mul(dh, o, out=scratch)
            dc.add_(torch.ops.aten.tanh_backward.grad_input(scratch, tanh, grad_input=dh))
            torch.mul(dc, c_last, out=df)
            torch.mul(dc, g, out=di)
            torch.mul(dc, i, out=scratch)
            torch.ops.aten.sigmoid_backward.grad_input(do, o, grad_input=do)
            torch.ops.aten.sigmoid_backward.grad_input(
                dgates[:, : 2 * hidden], gates[:, : 2 * hidden], grad_input=dgates[:, : 2 * hidden]
            )
            torch.ops.aten.tanh_backward.grad_input(scratch, g, grad_input=dg)
            dc.mul_(f)
            dz = dp_t[:, : 4 * hidden]
            dz.copy_(dgates)
            dm = gates_to_m(dz)
            torch.mul(dm, p_t[:, 4 * hidden :], out=dq_t)
            torch.mul(dm, q_t, out=dp_t[:, 4 * hidden :])
            if keep is not None:
                # W_mh's gradient and h's both go through dq, so one mask serves both.
                dq_t.mul_(keep)
                dc.mul_(keep)
            dh_next = m_to_h(dq_t)
        rows = time * batch
        dw_hm = dq.view(rows, hidden).t() @ h[:-1].reshape(rows, hidden) if ctx.needs_input_grad[3] else None
        dw_mg = None
        if ctx.needs_input_grad[4]:
            dw_mg = dp.view(rows, 5 * hidden)[:, : 4 * hidden].t() @ m.view(rows, hidden)
        return dp, dh_next, dc, dw_hm, dw_mg, None, None


def _keep_masks(reset_TB: Tensor | None, dtype: torch.dtype, time: int) -> list[Tensor | None]:
    """Per step a [B, 1] factor, 0 where the state is reset; None for steps (known on the host) that reset nothing."""
    if reset_TB is None:
        return [None] * time
    keeps: list[Tensor | None] = list((~reset_TB).to(dtype).unsqueeze(2).unbind(0))
    if reset_TB.device.type != "cpu":
        return keeps  # asking which steps reset would wait for the device
    return [keep if some else None for keep, some in zip(keeps, reset_TB.any(1).tolist(), strict=True)]
