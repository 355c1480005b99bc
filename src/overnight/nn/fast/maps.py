"""The four gate maps inside the time loop: a step's products forward and backward, and all weight gradients after it.

Each class is made once for the forward and once for the backward of a call; ``saved`` goes from the one to the other.
Products run in the dtype of p. Shape suffixes as in ``overnight.nn.gates``; R rank, K groups, M = 4H/K.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from overnight.nn.fast.cell import EagerCell
from overnight.nn.fast.packed import PackedMatrix, transposed_product
from overnight.nn.fast.triton_cell import TritonCell
from overnight.nn.gates import FoldedDense, FoldedFactorized, FoldedGrouped, FoldedMultiplicative


def over_time(like: Tensor, steps: int, width: int, keep: bool) -> Tensor:
    """[steps, B, width]; without a backward one step's memory serves all steps."""
    batch = like.shape[0]
    if keep:
        return like.new_empty(steps, batch, width)
    return like.new_empty(1, batch, width).expand(steps, -1, -1)


def rows(x_TBI: Tensor) -> Tensor:
    """[T·B, I]."""
    return x_TBI.reshape(-1, x_TBI.shape[2])


class FastMap:
    """What the time loop asks of a map.

    Attributes:
        weights: of this call.
        cell: for what a map has of pointwise work.
        saved: what the backward needs beside the gates and h.
    """

    weights: Sequence[Tensor]
    saved: list[Tensor]

    def __init__(self, weights: Sequence[Tensor], cell: EagerCell | TritonCell) -> None:
        self.weights, self.cell, self.saved = weights, cell, []

    def begin(self, p_TBP: Tensor, h_BN: Tensor, keep: bool) -> None:
        """Before the loop forward."""
        raise NotImplementedError

    def z(self, t: int, p_BP: Tensor, h_BN: Tensor) -> Tensor:
        """Pre-activations of a step, [B, 4H] or [B, 4, K, H/K]."""
        raise NotImplementedError

    def begin_backward(self, h_BN: Tensor, time: int) -> None:
        """Before the loop backward of ``time`` steps."""
        raise NotImplementedError

    def dz(self, t: int, dp_BP: Tensor) -> Tensor:
        """Where the gradient of z is to be written, [B, 4H] or [B, 4, K, H/K]: in p's, where it has a place there."""
        raise NotImplementedError

    def back(self, t: int, dp_BP: Tensor) -> Tensor:
        """From the gradient of z: write what is missing of p's, return that of h before the step."""
        raise NotImplementedError

    def tensors(self) -> list[Tensor]:
        """All that a loop reads and writes through the map, but p and its gradient."""
        return [*self.weights, *self.saved, *(own for own in vars(self).values() if isinstance(own, Tensor))]

    def weight_gradients(self, dp_TBP: Tensor, h_TBN: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
        """One product over all T·B rows each; h is what went into the steps."""
        raise NotImplementedError


class FastDense(FastMap):
    """z = p + R h."""

    def begin(self, p_TBP: Tensor, h_BN: Tensor, keep: bool) -> None:
        self.h_to_z = PackedMatrix(self.weights[0], len(h_BN), len(p_TBP))

    def z(self, t: int, p_BP: Tensor, h_BN: Tensor) -> Tensor:
        return self.h_to_z.add(p_BP, h_BN)

    def begin_backward(self, h_BN: Tensor, time: int) -> None:
        self.dz_to_h = PackedMatrix(self.weights[0].t(), len(h_BN), time)

    def dz(self, t: int, dp_BP: Tensor) -> Tensor:
        return dp_BP

    def back(self, t: int, dp_BP: Tensor) -> Tensor:
        return self.dz_to_h(dp_BP)

    def weight_gradients(self, dp_TBP: Tensor, h_TBN: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
        return [transposed_product(rows(dp_TBP), rows(h_TBN)) if wanted[0] else None]


class FastMultiplicative(FastMap):
    """m = p_m ⊙ (W_mh h);  z = p_g + W_m m."""

    def begin(self, p_TBP: Tensor, h_BN: Tensor, keep: bool) -> None:
        w_hm_HN, w_mg_GH = self.weights
        time, hidden = p_TBP.shape[0], w_mg_GH.shape[1]
        self.q, self.m = (over_time(p_TBP[0], time, hidden, keep) for _ in range(2))
        # a copy of p_m, so that p, five times as wide, can go
        self.p_m = p_TBP[:, :, w_mg_GH.shape[0] :].contiguous() if keep else p_TBP[:, :, w_mg_GH.shape[0] :]
        self.saved = [self.q, self.m, self.p_m]
        self.h_to_q, self.m_to_z = PackedMatrix(w_hm_HN, len(h_BN), time), PackedMatrix(w_mg_GH, len(h_BN), time)

    def z(self, t: int, p_BP: Tensor, h_BN: Tensor) -> Tensor:
        gates = self.weights[1].shape[0]
        q_BH, m_BH = self.q[t], self.m[t]
        q_BH.copy_(self.h_to_q(h_BN))
        self.cell.scale(q_BH, self.p_m[t], m_BH)
        return self.m_to_z.add(p_BP[:, :gates], m_BH)

    def begin_backward(self, h_BN: Tensor, time: int) -> None:
        w_hm_HN, w_mg_GH = self.weights
        self.q, self.m, self.p_m = self.saved
        self.dq = torch.empty_like(self.q)
        self.dz_to_m, self.dq_to_h = (
            PackedMatrix(w_mg_GH.t(), len(h_BN), time),
            PackedMatrix(w_hm_HN.t(), len(h_BN), time),
        )

    def dz(self, t: int, dp_BP: Tensor) -> Tensor:
        return dp_BP[:, : self.weights[1].shape[0]]

    def back(self, t: int, dp_BP: Tensor) -> Tensor:
        gates, dq_BH = self.weights[1].shape[0], self.dq[t]
        dm_BH = self.dz_to_m(dp_BP[:, :gates])
        self.cell.scale_backward(dm_BH, self.p_m[t], self.q[t], dq_BH, dp_BP[:, gates:])
        return self.dq_to_h(dq_BH)

    def weight_gradients(self, dp_TBP: Tensor, h_TBN: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
        gates = self.weights[1].shape[0]
        return [
            transposed_product(rows(self.dq), rows(h_TBN)) if wanted[0] else None,
            transposed_product(rows(dp_TBP)[:, :gates], rows(self.m)) if wanted[1] else None,
        ]


class FastFactorized(FastMap):
    """s = p + W₁ₕ h;  z = W₂ s + b."""

    def begin(self, p_TBP: Tensor, h_BN: Tensor, keep: bool) -> None:
        w_hs_RN, w_sz_GR, self.bias_G = self.weights
        self.s = over_time(p_TBP[0], p_TBP.shape[0], w_hs_RN.shape[0], keep)
        self.saved = [self.s]
        self.h_to_s, self.s_to_z = (
            PackedMatrix(w_hs_RN, len(h_BN), len(p_TBP)),
            PackedMatrix(w_sz_GR, len(h_BN), len(p_TBP)),
        )

    def z(self, t: int, p_BP: Tensor, h_BN: Tensor) -> Tensor:
        s_BR = self.s[t].copy_(self.h_to_s.add(p_BP, h_BN))
        return self.s_to_z(s_BR).add_(self.bias_G)

    def begin_backward(self, h_BN: Tensor, time: int) -> None:
        w_hs_RN, w_sz_GR, _ = self.weights
        # p is r wide, so dz has no place there; nor that of the gates, which a second backward would want again
        (self.s,) = self.saved
        self.dz_TBG = over_time(self.s[0], len(self.s), len(w_sz_GR), keep=True)
        self.dz_to_s, self.ds_to_h = (
            PackedMatrix(w_sz_GR.t(), len(h_BN), time),
            PackedMatrix(w_hs_RN.t(), len(h_BN), time),
        )

    def dz(self, t: int, dp_BP: Tensor) -> Tensor:
        return self.dz_TBG[t]

    def back(self, t: int, dp_BP: Tensor) -> Tensor:
        dp_BP.copy_(self.dz_to_s(self.dz_TBG[t]))
        return self.ds_to_h(dp_BP)

    def weight_gradients(self, dp_TBP: Tensor, h_TBN: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
        dz = rows(self.dz_TBG)
        return [
            transposed_product(rows(dp_TBP), rows(h_TBN)) if wanted[0] else None,
            transposed_product(dz, rows(self.s)) if wanted[1] else None,
            dz.sum(0, dtype=torch.promote_types(dz.dtype, torch.float32)).to(dz.dtype) if wanted[2] else None,
        ]


class FastGrouped(FastMap):
    """z^j = p^j + R^j h^j, as one batched product; p's columns stand group by group."""

    def begin(self, p_TBP: Tensor, h_BN: Tensor, keep: bool) -> None:
        self.h_to_z_KNM = self.weights[0].transpose(1, 2).contiguous()

    def z(self, t: int, p_BP: Tensor, h_BN: Tensor) -> Tensor:
        groups, _, gates = self.h_to_z_KNM.shape
        z_KBM = torch.baddbmm(self._split(p_BP, groups), self._split(h_BN, groups), self.h_to_z_KNM)
        return z_KBM.view(groups, len(p_BP), 4, gates // 4).permute(1, 2, 0, 3)

    def begin_backward(self, h_BN: Tensor, time: int) -> None:
        self.dz_to_h_KMN = self.weights[0].contiguous()

    def dz(self, t: int, dp_BP: Tensor) -> Tensor:
        groups, gates, _ = self.dz_to_h_KMN.shape
        return dp_BP.view(len(dp_BP), groups, 4, gates // 4).transpose(1, 2)

    def back(self, t: int, dp_BP: Tensor) -> Tensor:
        groups, batch = len(self.dz_to_h_KMN), len(dp_BP)
        dh_KBN = torch.bmm(self._split(dp_BP, groups), self.dz_to_h_KMN)
        return dh_KBN.transpose(0, 1).reshape(batch, groups * dh_KBN.shape[2])

    def weight_gradients(self, dp_TBP: Tensor, h_TBN: Tensor, wanted: Sequence[bool]) -> list[Tensor | None]:
        groups = self.weights[0].shape[0]
        if not wanted[0]:
            return [None]
        # copied group by group: batched bf16 products of strided rows ran at a fifth of the rate
        dp_KRM, h_KRN = (self._split(rows(x), groups).contiguous() for x in (dp_TBP, h_TBN))
        return [torch.bmm(dp_KRM.transpose(1, 2), h_KRN)]

    @staticmethod
    def _split(x: Tensor, groups: int) -> Tensor:
        """[B, K·I] → [K, B, I]."""
        return x.reshape(len(x), groups, x.shape[1] // groups).transpose(0, 1)


def fast_map(folded: Any) -> tuple[type[FastMap], tuple[Tensor, ...]] | None:
    """The class for folded weights and the weights that take part in the loop, or None."""
    if isinstance(folded, FoldedDense):
        return FastDense, (folded.hidden_weight_GN,)
    if isinstance(folded, FoldedMultiplicative):
        return FastMultiplicative, (folded.hidden_to_m_HH, folded.m_to_gates_GH)
    if isinstance(folded, FoldedFactorized):
        return FastFactorized, (folded.hidden_weight_RN, folded.gates_weight_GR, folded.bias_G)
    if isinstance(folded, FoldedGrouped):
        return FastGrouped, (folded.hidden_weight_KMN,)
    return None
