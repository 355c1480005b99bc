"""The one recurrence over any gate map: the readable twin, and the layer that chooses between it and a fast path.

    z_t = gates(x_t, h_{t-1});  i, f, g, o = split(z_t)
    c_t = σ(f) c_{t-1} + σ(i) tanh(g);   h_t = σ(o) tanh(c_t), or P (σ(o) tanh(c_t)) with a projection

Shape suffixes as in ``overnight.nn.gates``.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from overnight.errors import UserError
from overnight.nn.fast.sequence import fast_recurrence, serves
from overnight.nn.fast.table import look_up
from overnight.nn.gates import Folded, GateMap, Matrix

Path = Literal["auto", "readable", "fast"]
FEW_UNITS = 2048
"""Units of all lanes up to which ``auto`` takes the readable path on a CPU where there are no gradients.

There the fast path's buffers cost more than they save. Forward in ms, fast and readable, one thread of an AMD CPU, best
of 15 in turn, float32 then bf16: multiplicative, 128 units, 1 lane, 64 steps 2.18 1.72, 4.15 3.28; dense, 64 units,
32 lanes, 32 steps, projected to 16, 1.70 1.35, 2.06 1.90; but dense, 512 units, 8 lanes, 16 steps 4.05 4.82, 2.35 2.31.
With gradients the fast path was the faster one at all of these but single steps.
"""
Steps = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor]]


def cell(z_BG: Tensor, c_BH: Tensor) -> tuple[Tensor, Tensor]:
    """Pre-activations and the last cell state → (h, c), both in float32 or wider."""
    i, f, g, o = z_BG.to(c_BH.dtype).chunk(4, dim=-1)
    c = torch.sigmoid(f) * c_BH + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def recurrence(
    folded: Folded,
    p_TBP: Tensor,
    h_BN: Tensor,
    c_BH: Tensor,
    reset_TB: Tensor | None = None,
    projection_NH: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Run the cell over time, one Python step per time step: slow, and what every fast path is compared with.

    Args:
        folded: the gate map's weights for this call.
        p_TBP: ``folded.project(x)`` for all steps.
        h_BN: output before the first step.
        c_BH: cell state before the first step, float32 (float64 for gradient checks).
        reset_TB: True where the state is zeroed *before* the step, as at the start of a document.
        projection_NH: what σ(o) tanh(c) is multiplied with before it is h, in p's dtype (Sak et al. 2014); None: N = H.

    Returns:
        h for all steps [T, B, N] in p's dtype, the last h in p's dtype, and the last c.
    """
    outputs: list[Tensor] = []
    h_BN = h_BN.to(p_TBP.dtype)
    # unbind, not p_TBP[t]: the backward of each select would allocate a zero tensor of the whole sequence.
    for t, p_BP in enumerate(p_TBP.unbind(0)):
        if reset_TB is not None:
            # not a product with 0, which leaves a NaN of the last document a NaN
            reset_B1 = reset_TB[t].unsqueeze(1)
            h_BN, c_BH = h_BN.masked_fill(reset_B1, 0), c_BH.masked_fill(reset_B1, 0)
        h_BH, c_BH = cell(folded.preactivation(p_BP, h_BN), c_BH)
        h_BH = h_BH.to(p_TBP.dtype)
        h_BN = h_BH if projection_NH is None else F.linear(h_BH, projection_NH)
        outputs.append(h_BN)
    h_TBN = torch.stack(outputs) if outputs else p_TBP.new_zeros(0, *h_BN.shape)
    return h_TBN, h_BN, c_BH


class Recurrent(nn.Module):
    """A recurrent layer: any gate map, with projection, carried state and reset masks.

    Where the map's ``output_size`` N is not its ``hidden_size`` H, the layer owns ``projection`` [N, H], without bias,
    weight-normalised and initialised as the map's matrices.

    Args:
        gates: the gate map; it owns the parameters of the gates.
        path: ``auto`` takes the fast path where one exists for this gate map (but for ``torch.export``) and is the
            faster one, ``readable`` never, ``fast`` insists.
        chunk: steps whose activations are kept for the backward at once; None keeps those of all steps. The chunks
            but the last are run again in the backward, so that of a chunk before its turn only x, h and c remain.

    Memory: of a step and lane, the fast path keeps the four gates and h in the dtype of the products and c in float32
    (and what a projection or the map adds). With the multiplicative map in bf16 these are 20 H bytes: 10.8 GB of 256
    steps, 512 lanes and 4096 units, 2.7 GB of a chunk of 64 of these steps. Each chunk adds its share to the
    weights' gradients in float32 or wider.

    Raises:
        UserError: for an unknown path or a chunk of no steps, and in a call where ``fast`` is asked for and there is
            none.

    Example:
        >>> from overnight.nn.gates import DenseGates
        >>> layer = Recurrent(DenseGates(64, 128, output_size=32))
        >>> h, (h_last, c_last) = layer(torch.randn(5, 2, 64))
        >>> h.shape, h_last.shape, c_last.shape
        (torch.Size([5, 2, 32]), torch.Size([2, 32]), torch.Size([2, 128]))
    """

    def __init__(self, gates: GateMap, path: Path = "auto", *, chunk: int | None = None) -> None:
        super().__init__()
        if path not in ("auto", "readable", "fast"):
            raise UserError(f"{path!r} is not a recurrence path.", "Choose auto, readable or fast.")
        if chunk is not None and (isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1):
            raise UserError(f"chunk={chunk} is not a number of steps.", "Give at least 1, or None for all at once.")
        self.gates = gates
        self.path = path
        self.chunk = chunk
        hidden, output = gates.hidden_size, gates.output_size
        self.projection = None if output == hidden else Matrix(output, hidden, hidden, gates.weight_norm, gates.init)

    def forward(
        self,
        x_TBD: Tensor,
        state: tuple[Tensor, Tensor] | None = None,
        reset_TB: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x [T, B, D] and (h [B, N], c [B, H]) → h [T, B, N] and the last (h, c). T and B may be 0.

        Products run in x's dtype, or autocast's; c is kept in float32 or wider. A given state is converted to these.

        Args:
            x_TBD: input, floating point.
            state: after the steps before these, floating point; None means zeros.
            reset_TB: True where the state is zeroed before the step.

        Raises:
            ValueError: for an input, state or mask of the wrong shape or kind.
        """
        check_call(x_TBD, state, reset_TB, self.gates)
        return self._run(x_TBD, x_TBD.shape[1], state, reset_TB, None)

    def look_up(
        self,
        ids_TB: Tensor,
        table_VD: Tensor,
        state: tuple[Tensor, Tensor] | None = None,
        reset_TB: Tensor | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The layer on ``table[ids]``: inputs of V values, as bytes are. Otherwise as ``forward``.

        Where there are more steps than values, the V values are projected instead of the T·B inputs (Puri et al. 2018
        have 256 for 32,768 · 256 inputs).

        Args:
            ids_TB: int32 or int64 rows of the table.
            table_VD: an embedding's weight.

        Raises:
            ValueError: for ids, a table, state or mask of the wrong shape or kind.

        Example:
            >>> from overnight.nn.gates import DenseGates
            >>> layer, embedding = Recurrent(DenseGates(8, 16)), nn.Embedding(256, 8)
            >>> h, state = layer.look_up(torch.randint(256, (5, 2)), embedding.weight)
            >>> h.shape
            torch.Size([5, 2, 16])
        """
        for name, given in (("ids are", ids_TB), ("table is", table_VD)):
            if not isinstance(given, Tensor):
                raise ValueError(f"The {name} of the type {type(given).__name__}; expected a tensor.")
        if ids_TB.dim() != 2 or ids_TB.dtype not in (torch.int32, torch.int64):
            kind = f"{ids_TB.dtype} of shape {tuple(ids_TB.shape)}"
            raise ValueError(f"The ids are {kind}; expected int32 or int64 [T, B].")
        if table_VD.dim() != 2:
            raise ValueError(f"The table has shape {tuple(table_VD.shape)}; expected [V, {self.gates.input_size}].")
        if not len(table_VD):
            raise ValueError("The table has no rows; expected at least 1.")
        if _unserved_transform() or self.path == "readable" or ids_TB.numel() <= len(table_VD):
            return self.forward(F.embedding(ids_TB, table_VD), state, reset_TB)
        check_call(table_VD[0].expand(*ids_TB.shape, -1), state, reset_TB, self.gates)
        return self._run(table_VD, ids_TB.shape[1], state, reset_TB, ids_TB)

    def _run(
        self,
        x: Tensor,
        batch: int,
        state: tuple[Tensor, Tensor] | None,
        reset_TB: Tensor | None,
        ids_TB: Tensor | None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """x is the input [T, B, D], or the table [V, D] that ids are looked up in."""
        dtype = _compute_dtype(x)
        wide = torch.promote_types(x.dtype, torch.float32)
        if state is None:
            h_BN = x.new_zeros(batch, self.gates.output_size, dtype=dtype)
            c_BH = x.new_zeros(batch, self.gates.hidden_size, dtype=wide)
        else:
            h_BN, c_BH = state[0], state[1].to(wide)
        with torch.autocast(x.device.type, enabled=False):
            inputs = x if ids_TB is None else ids_TB
            transform = _unserved_transform()
            chunk = self.chunk if self.chunk and not transform else max(1, len(inputs))  # none knows checkpoints
            # the casts are each chunk's own, so that autograd adds up the gradients of all chunks in float32
            folded_dtype = torch.promote_types(dtype, torch.float32) if len(inputs) > chunk else dtype
            folded = self.gates.fold(folded_dtype)
            if folded_dtype != dtype and not is_dataclass(folded):
                folded_dtype, folded = dtype, self.gates.fold(dtype)
            projection_NH = None if self.projection is None else self.projection().to(folded_dtype)
            unserved = transform or ("" if serves(folded) else type(self.gates).__name__)
            if self.path == "fast" and unserved:
                raise UserError(f"No fast path serves {unserved}.", "Set path='auto'.")
            few = x.device.type == "cpu" and not torch.is_grad_enabled() and c_BH.numel() <= FEW_UNITS
            fast = not unserved and (self.path == "fast" or (self.path == "auto" and not few))
            run = fast_recurrence if fast else recurrence
            table_VP = None if ids_TB is None else _cast(folded, dtype).project(x.to(dtype)).to(folded_dtype)

            def steps(x: Tensor, h: Tensor, c: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
                now = _cast(folded, dtype) if folded_dtype != dtype else folded
                p_TBP = now.project(x.to(dtype)) if table_VP is None else look_up(table_VP.to(dtype), x)
                return run(now, p_TBP, h, c, reset, None if projection_NH is None else projection_NH.to(dtype))

            h_TBN, h_BN, c_BH = _in_chunks(steps, chunk, inputs, h_BN, c_BH, reset_TB)
            if not len(inputs) and torch.is_grad_enabled():
                # no step has a part in the outputs; a gradient of zeros all the same, as for a batch of none
                nothing = torch.stack([part.reshape(-1)[:0].sum().to(wide) for part in (x, *self.parameters())]).sum()
                h_TBN, h_BN, c_BH = h_TBN + nothing, h_BN + nothing, c_BH + nothing
        return h_TBN, (h_BN, c_BH)


def _cast(folded: Folded, dtype: torch.dtype) -> Folded:
    """A gate map's weights in another dtype."""
    if not is_dataclass(folded):
        return folded
    return replace(folded, **{part.name: getattr(folded, part.name).to(dtype) for part in fields(folded)})


def _in_chunks(
    steps: Steps, chunk: int, x_TBD: Tensor, h_BN: Tensor, c_BH: Tensor, reset_TB: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    if len(x_TBD) <= chunk:
        return steps(x_TBD, h_BN, c_BH, reset_TB)
    # split, not slices: the backward of each slice would allocate a zero tensor of the whole sequence
    xs, outputs = x_TBD.split(chunk), []
    resets = [None] * len(xs) if reset_TB is None else reset_TB.split(chunk)
    for x, reset in zip(xs[:-1], resets, strict=False):
        if torch.is_grad_enabled():
            h_CBN, h_BN, c_BH = checkpoint(steps, x, h_BN, c_BH, reset, use_reentrant=False, preserve_rng_state=False)
        else:
            h_CBN, h_BN, c_BH = steps(x, h_BN, c_BH, reset)
        outputs.append(h_CBN)
    h_CBN, h_BN, c_BH = steps(xs[-1], h_BN, c_BH, resets[-1])
    return torch.cat([*outputs, h_CBN]), h_BN, c_BH


def _unserved_transform() -> str:
    """Under which there are standard operations only: the one that is active, or empty."""
    if torch.compiler.is_exporting():
        return "torch.export"
    if torch._C._are_functorch_transforms_active():
        return "torch.func"
    return ""


def _compute_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def check_call(x_TBD: Tensor, state: tuple[Tensor, Tensor] | None, reset_TB: Tensor | None, gates: GateMap) -> None:
    """Raise a ValueError for what ``Recurrent`` cannot be called with."""
    if not isinstance(x_TBD, Tensor):
        raise ValueError(f"The input is of the type {type(x_TBD).__name__}; expected a tensor.")
    if x_TBD.dim() != 3 or not x_TBD.is_floating_point():
        kind = f"{x_TBD.dtype} of shape {tuple(x_TBD.shape)}"
        raise ValueError(f"The input is {kind}; expected floating point [T, B, {gates.input_size}].")
    time, batch, width = x_TBD.shape
    if width != gates.input_size:
        raise ValueError(f"The input is {width} wide; the gate map takes {gates.input_size}.")
    if state is not None:
        if not isinstance(state, (tuple, list)):
            raise ValueError(f"The state is of the type {type(state).__name__}; expected the two tensors (h, c).")
        if len(state) != 2:
            raise ValueError(f"The state has {len(state)} parts; expected the two tensors (h, c).")
        for name, part, units in zip(("h", "c"), state, (gates.output_size, gates.hidden_size), strict=True):
            if not isinstance(part, Tensor):
                raise ValueError(f"State {name} is of the type {type(part).__name__}; expected a tensor.")
            if part.shape != (batch, units):
                raise ValueError(f"State {name} has shape {tuple(part.shape)}; expected {(batch, units)}.")
            if not part.is_floating_point():
                raise ValueError(f"State {name} is {part.dtype}; expected floating point.")
    if reset_TB is not None and not isinstance(reset_TB, Tensor):
        raise ValueError(f"The reset mask is a {type(reset_TB).__name__}; expected a tensor of torch.bool.")
    if reset_TB is not None and (reset_TB.shape != (time, batch) or reset_TB.dtype != torch.bool):
        raise ValueError(
            f"The reset mask is {reset_TB.dtype} of shape {tuple(reset_TB.shape)}; expected torch.bool {(time, batch)}."
        )
