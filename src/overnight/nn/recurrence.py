"""The one recurrence over any gate map: the readable twin, and the layer that chooses between it and a fast path.

    z_t = gates(x_t, h_{t-1});  i, f, g, o = split(z_t)
    c_t = σ(f) c_{t-1} + σ(i) tanh(g);   h_t = σ(o) tanh(c_t)

Shape suffixes as in ``overnight.nn.gates``.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.fast import sequence as fast_sequence
from overnight.nn.gates import Folded, GateMap

Path = Literal["auto", "readable", "fast"]


def cell(z_BG: Tensor, c_BH: Tensor) -> tuple[Tensor, Tensor]:
    """Pre-activations and the last cell state → (h, c), both in float32 or wider."""
    i, f, g, o = z_BG.to(c_BH.dtype).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c_BH + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def recurrence(
    folded: Folded, p_TBP: Tensor, h_BH: Tensor, c_BH: Tensor, reset_TB: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the cell over time, one Python step per time step: slow, and what every fast path is compared with.

    Args:
        folded: the gate map's weights for this call.
        p_TBP: ``folded.project(x)`` for all steps.
        h_BH: output before the first step.
        c_BH: cell state before the first step, float32 (float64 for gradient checks).
        reset_TB: True where the state is zeroed *before* the step, as at the start of a document.

    Returns:
        h for all steps [T, B, H] in p's dtype, the last h in p's dtype, and the last c.
    """
    outputs: list[Tensor] = []
    h_BH = h_BH.to(p_TBP.dtype)
    # unbind, not p_TBP[t]: the backward of each select would allocate a zero tensor of the whole sequence.
    for t, p_BP in enumerate(p_TBP.unbind(0)):
        if reset_TB is not None:
            keep_B1 = (~reset_TB[t]).unsqueeze(1)
            h_BH, c_BH = h_BH * keep_B1, c_BH * keep_B1
        h_BH, c_BH = cell(folded.preactivation(p_BP, h_BH), c_BH)
        h_BH = h_BH.to(p_TBP.dtype)
        outputs.append(h_BH)
    h_TBH = torch.stack(outputs) if outputs else p_TBP.new_zeros(0, *h_BH.shape)
    return h_TBH, h_BH, c_BH


class Recurrent(nn.Module):
    """A recurrent layer: any gate map, with carried state and reset masks.

    Args:
        gates: the gate map; it owns the parameters.
        path: ``auto`` takes the fast path where one exists for this gate map, ``readable`` never, ``fast`` insists.

    Example:
        >>> from overnight.nn.gates import MultiplicativeGates
        >>> layer = Recurrent(MultiplicativeGates(64, 128))
        >>> h, (h_last, c_last) = layer(torch.randn(5, 2, 64))
        >>> h.shape
        torch.Size([5, 2, 128])
    """

    def __init__(self, gates: GateMap, path: Path = "auto") -> None:
        super().__init__()
        if path not in ("auto", "readable", "fast"):
            raise UserError(f"{path!r} is not a recurrence path.", "Choose auto, readable or fast.")
        self.gates = gates
        self.path = path

    def forward(
        self,
        x_TBD: Tensor,
        state: tuple[Tensor, Tensor] | None = None,
        reset_TB: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [T, B, D] and (h, c) [B, H] → h [T, B, H] and the last (h, c). No state means zeros."""
        batch = x_TBD.shape[1]
        dtype = _compute_dtype(x_TBD)
        if state is None:
            zeros = x_TBD.new_zeros(batch, self.gates.hidden_size)
            state = (zeros.to(dtype), zeros.to(torch.promote_types(x_TBD.dtype, torch.float32)))
        _check(x_TBD, state, reset_TB, self.gates)
        with torch.autocast(x_TBD.device.type, enabled=False):
            folded = self.gates.fold(dtype)
            p_TBP = folded.project(x_TBD.to(dtype))
            run = recurrence if self.path == "readable" else fast_sequence.find(folded)
            if run is None:
                if self.path == "fast":
                    raise UserError(f"No fast path serves {type(self.gates).__name__}.", "Set path='auto'.")
                run = recurrence
            h_TBH, h_BH, c_BH = run(folded, p_TBP, state[0], state[1], reset_TB)
        return h_TBH, (h_BH, c_BH)


def _compute_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _check(x_TBD: Tensor, state: tuple[Tensor, Tensor], reset_TB: Tensor | None, gates: GateMap) -> None:
    time, batch, width = x_TBD.shape
    if width != gates.input_size:
        raise ValueError(f"The input is {width} wide; the gate map takes {gates.input_size}.")
    for name, part in zip(("h", "c"), state, strict=True):
        if part.shape != (batch, gates.hidden_size):
            raise ValueError(f"State {name} has shape {tuple(part.shape)}; expected {(batch, gates.hidden_size)}.")
    if reset_TB is not None and (reset_TB.shape != (time, batch) or reset_TB.dtype != torch.bool):
        raise ValueError(
            f"The reset mask is {reset_TB.dtype} of shape {tuple(reset_TB.shape)}; expected torch.bool {(time, batch)}."
        )
