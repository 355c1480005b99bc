"""The recurrence over a whole sequence as one autograd function, in plain PyTorch: the fast twin of ``recurrence``.

What it saves over autograd on the readable loop: no graph node per operation and step, products written into buffers
made once, and each recurrent weight gradient as one product over all T·B rows after the loop instead of T small ones.
Products run in the dtype of p with float32 accumulation; the cell state and its gradient are float32 or wider.

Shape suffixes as in ``overnight.nn.gates``.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from overnight.nn.fast.graphed import run_loop
from overnight.nn.fast.maps import FastMap, fast_map, over_time, rows
from overnight.nn.fast.packed import PackedMatrix, transposed_product
from overnight.nn.fast.triton_cell import cell_for


def serves(folded: object) -> bool:
    """Whether there is a fast path for these folded weights."""
    return fast_map(folded) is not None


def fast_recurrence(
    folded: Any,
    p_TBP: Tensor,
    h_BN: Tensor,
    c_BH: Tensor,
    reset_TB: Tensor | None = None,
    projection_NH: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The readable recurrence's fast twin; same arguments, same results.

    Raises:
        TypeError: for folded weights that it does not serve.
        RuntimeError: for a second derivative.
    """
    found = fast_map(folded)
    if found is None:
        raise TypeError(f"There is no fast path for {type(folded).__name__}.")
    kind, weights = found
    h_BN = h_BN.to(p_TBP.dtype)
    if p_TBP.shape[0] == 0:
        return p_TBP.new_zeros(0, *h_BN.shape), h_BN, c_BH
    tensors = (p_TBP, h_BN, c_BH, projection_NH, *weights)
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
    apply = _Sequence.apply
    if torch.compiler.is_compiling():
        # a compiler that follows the loop writes every step out: a minute for 60 steps
        apply = torch.compiler.disable(apply)
    outputs: tuple[Tensor, Tensor, Tensor] = apply(kind, reset_TB, keep, *tensors)  # type: ignore[no-untyped-call]
    return outputs


class _Sequence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        kind: type[FastMap],
        reset_TB: Tensor | None,
        keep: bool,
        p_TBP: Tensor,
        h0_BN: Tensor,
        c0_BH: Tensor,
        projection_NH: Tensor | None,
        *weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        time, hidden = p_TBP.shape[0], c0_BH.shape[1]
        masks = _masks(reset_TB, time)
        h = p_TBP.new_empty(time + 1, *h0_BN.shape)
        c = over_time(c0_BH, time + 1, hidden, keep)
        z = over_time(h0_BN, time, 4 * hidden, keep)  # the activated gates
        y = over_time(h0_BN, time, hidden, keep) if projection_NH is not None else h[1:]
        h[0], c[0] = h0_BN, c0_BH
        cell = cell_for(p_TBP, c0_BH)
        map_ = kind(weights, cell)
        map_.begin(p_TBP, h0_BN, keep)
        project = PackedMatrix(projection_NH, len(h0_BN), time) if projection_NH is not None else None
        ps, hs, cs, zs, ys = p_TBP.unbind(0), h.unbind(0), c.unbind(0), z.unbind(0), y.unbind(0)

        def loop() -> None:
            for t in range(time):
                z_BG = map_.z(t, ps[t], _masked(hs[t], masks[t]))
                cell.forward(z_BG, cs[t], cs[t + 1], zs[t], ys[t], masks[t])
                if project is not None:
                    hs[t + 1].copy_(project(ys[t]))

        used = (p_TBP, h, c, z, y, masks[0], projection_NH, *map_.tensors(), *cell.tensors())
        run_loop(f"the forward of {kind.__name__}", loop, used)
        if keep:
            ctx.save_for_backward(projection_NH, h, c, z, y, *weights, *map_.saved)
            ctx.kind, ctx.masks, ctx.weights, ctx.width = kind, masks, len(weights), p_TBP.shape[2]
        # a state that is carried on must not hold the whole sequence's memory
        return h[1:], h[time].clone(), c[time].clone()

    @staticmethod
    def backward(ctx: Any, dh_TBN: Tensor, dh_BN: Tensor, dc_BH: Tensor) -> tuple[Tensor | None, ...]:
        # autograd's own once_differentiable lets a loss that is linear in h through, with a wrong second derivative
        if torch.is_grad_enabled():
            raise RuntimeError("The fast recurrence has no second derivatives; use path='readable' for them.")
        projection_NH, h, c, z, y, *rest = ctx.saved_tensors
        weights, masks = rest[: ctx.weights], ctx.masks
        time, batch = len(z), z.shape[1]
        cell = cell_for(z, c[0])
        map_: FastMap = ctx.kind(weights, cell)
        map_.saved = rest[ctx.weights :]
        map_.begin_backward(h[0], time)
        dh_to_y = PackedMatrix(projection_NH.t(), batch, time) if projection_NH is not None else None
        dp = z.new_empty(time, batch, ctx.width)
        dhs = torch.empty_like(h[1:]) if projection_NH is not None else None
        dh0, dc = (last.clone(memory_format=torch.contiguous_format) for last in (dh_BN, dc_BH))
        cs, zs, dps, outs = c.unbind(0), z.unbind(0), dp.unbind(0), dh_TBN.unbind(0)

        def loop() -> None:
            dh_next = dh0
            for t in reversed(range(time)):
                dy: tuple[Tensor, Tensor | None] = outs[t], dh_next
                if dh_to_y is not None and dhs is not None:
                    dy = dh_to_y(torch.add(outs[t], dh_next, out=dhs[t])), None
                cell.backward(zs[t], cs[t], cs[t + 1], *dy, dc, map_.dz(t, dps[t]), masks[t])
                dh_next = _masked(map_.back(t, dps[t]), masks[t])
            dh0.copy_(dh_next)

        used = (dh_TBN, h, c, z, dp, dhs, dh0, dc, masks[0], projection_NH, *map_.tensors(), *cell.tensors())
        run_loop(f"the backward of {ctx.kind.__name__}", loop, used)
        wanted: Sequence[bool] = ctx.needs_input_grad[6:]
        dw = map_.weight_gradients(dp, _inputs(h, masks), wanted[1:])
        dprojection = transposed_product(rows(dhs), rows(y)) if dhs is not None and wanted[0] else None
        return None, None, None, dp, dh0, dc, dprojection, *dw


def _masked(x: Tensor, mask_B1: Tensor | None) -> Tensor:
    return x if mask_B1 is None else x.masked_fill(mask_B1, 0)


def _inputs(h: Tensor, masks: Sequence[Tensor | None]) -> Tensor:
    """h before each step, [T, B, N], with the resets."""
    before = h[:-1]
    if all(mask is None for mask in masks):
        return before
    before = before.clone()
    for h_BN, mask in zip(before.unbind(0), masks, strict=True):
        if mask is not None:
            h_BN.masked_fill_(mask, 0)
    return before


def _masks(reset_TB: Tensor | None, time: int) -> list[Tensor | None]:
    """Per step a [B, 1] mask of where the state is zeroed; None for steps (known on the host) that reset nothing.

    Zeros are filled in: a product with 0 would leave a NaN of the last document a NaN.
    """
    if reset_TB is None:
        return [None] * time
    masks: list[Tensor | None] = list(reset_TB.clone(memory_format=torch.contiguous_format).unsqueeze(2).unbind(0))
    if reset_TB.device.type != "cpu":
        return masks  # asking which steps reset would wait for the device
    return [mask if some else None for mask, some in zip(masks, reset_TB.any(1).tolist(), strict=True)]
