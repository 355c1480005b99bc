"""The pointwise cell of a step and its gradient as one Triton kernel each, for CUDA devices; and which cell to take.

Per unit and step, with p in bfloat16, the forward moves 26 bytes and the backward 36; eager operations several times
that, each in a launch of its own. Shape suffixes as in ``overnight.nn.gates``.
"""

import importlib.util
import logging
from functools import cache

import torch
from torch import Tensor

from overnight.nn.fast.cell import EagerCell
from overnight.nn.fast.triton_kernels import kernels

DEVICES = {"cuda"}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_BLOCK = 1024
"""Columns that a program takes."""


class TritonCell:
    """``EagerCell`` in one launch a step; c is float32.

    Written tensors are contiguous, but for dz and dp, whose strides are their own.

    Args:
        c_BH: a cell state, for its width.
    """

    def __init__(self, c_BH: Tensor) -> None:
        self.hidden = c_BH.shape[1]
        self.block = min(LARGEST_BLOCK, max(16, 1 << (self.hidden - 1).bit_length()))
        self.kernels = kernels()
        # the default until Triton 3.10; 3.9 warns where it is not said
        self.options = {"BLOCK": self.block, "enable_fp_fusion": True}

    def _grid(self, x: Tensor) -> tuple[int, int]:
        return x.shape[0], -(-self.hidden // self.block)

    def _by_gate(self, z: Tensor) -> tuple[int, int, int, int, int]:
        """Strides of a row, a gate, a group and a column, and the columns of a group."""
        if z.dim() == 2:
            return z.stride(0), self.hidden * z.stride(1), 0, z.stride(1), self.hidden
        row, gate, group, column = z.stride()
        return row, gate, group, column, z.shape[3]

    def forward(
        self,
        z: Tensor,
        c_last_BH: Tensor,
        c_out_BH: Tensor,
        z_out_BG: Tensor,
        y_out_BH: Tensor,
        reset_B1: Tensor | None = None,
    ) -> None:
        """Write the new c, the activated gates and y.

        Args:
            z: pre-activations, [B, 4H] or [B, 4, K, H/K], of any strides.
            c_last_BH: before the step, without the resets.
            c_out_BH, z_out_BG, y_out_BH: written to.
            reset_B1: True where c is zeroed before the step.
        """
        if z.numel():
            self.kernels.forward[self._grid(z)](
                z, c_last_BH, c_out_BH, z_out_BG, y_out_BH, reset_B1,
                *self._by_gate(z), self.hidden, GROUPED=z.dim() == 4, **self.options,
            )  # fmt: skip

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
            dz: written to, [B, 4H] or [B, 4, K, H/K]; may share z's memory.
            reset_B1: as in the forward.
        """
        if dz.numel():
            more = (0, 0) if dy_more_BH is None else dy_more_BH.stride()
            self.kernels.backward[self._grid(dz)](
                z_BG, c_last_BH, c_BH, dy_BH, dy_more_BH, dc_BH, dz, reset_B1,
                *dy_BH.stride(), *more, *self._by_gate(dz), self.hidden, GROUPED=dz.dim() == 4, **self.options,
            )  # fmt: skip

    def scale(self, q_BH: Tensor, p_BH: Tensor, m_out_BH: Tensor) -> None:
        """m = p ⊙ q."""
        if q_BH.numel():
            self.kernels.scale[self._grid(q_BH)](q_BH, p_BH, m_out_BH, *p_BH.stride(), self.hidden, **self.options)

    def scale_backward(self, dm_BH: Tensor, p_BH: Tensor, q_BH: Tensor, dq_BH: Tensor, dp_BH: Tensor) -> None:
        """dq = dm ⊙ p;  dp = dm ⊙ q."""
        if dm_BH.numel():
            self.kernels.scale_backward[self._grid(dm_BH)](
                dm_BH, p_BH, q_BH, dq_BH, dp_BH, *p_BH.stride(), *dp_BH.stride(), self.hidden, **self.options
            )

    def tensors(self) -> list[Tensor]:
        """The cell's own buffers: none."""
        return []


def cell_for(p: Tensor, c_BH: Tensor) -> "EagerCell | TritonCell":
    """The cell to take for these tensors; why not Triton's on a device that could have it is logged once."""
    reason = why_not_triton(c_BH.device, p.dtype, c_BH.dtype)
    if not reason:
        return TritonCell(c_BH)
    if c_BH.device.type in DEVICES:
        _say(reason)
    return EagerCell(c_BH, p.dtype)


def why_not_triton(device: torch.device, dtype: torch.dtype, state_dtype: torch.dtype = torch.float32) -> str:
    """Why the cell runs in eager operations on ``device``, for p and c of these dtypes; empty where it does not.

    >>> why_not_triton(torch.device("cpu"), torch.bfloat16)
    'Triton compiles for GPUs, and this is the CPU'
    """
    if device.type not in DEVICES:
        return f"Triton compiles for GPUs, and this is {'the CPU' if device.type == 'cpu' else device.type}"
    if dtype not in DTYPES or state_dtype != torch.float32:
        return f"the Triton cell works in float32, not on {str(dtype).removeprefix('torch.')}"
    return _why_not_on(device)


@cache
def _why_not_on(device: torch.device) -> str:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (the extra gpu)"
    try:
        with torch.cuda.device(device) if device.type == "cuda" else torch.no_grad():
            x = torch.zeros(1, 16, device=device)
            TritonCell(x).scale(x, x, torch.empty_like(x))
    except Exception as error:  # a broken compiler, driver or Triton raises whatever it likes
        return (
            f"Triton cannot compile here: {str(error).strip().splitlines()[0] if str(error).strip() else repr(error)}"
        )
    return ""


@cache
def _say(reason: str) -> None:
    logging.getLogger("overnight").warning("The recurrent cell runs in eager operations: %s.", reason)
