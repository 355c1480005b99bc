"""A byte language model reading many texts side by side, for features and scores.

``ByteLM.hidden`` normalises, casts and lays out its weights on every call, and makes the projected inputs of a whole
window. Here the weights are laid out once, and a step's inputs are taken out of the 256 possible ones while they are
still in the processor's cache: on a CPU 1.1 to 1.25 times the rate (docs/results.md).

Shape suffixes as in ``overnight.models.byte_lm``; P = width of a projected input, G = 4H.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from copy import deepcopy

import torch
from torch import Tensor

from overnight.models.byte_lm import ByteLM
from overnight.nn.fast.cell import EagerCell
from overnight.nn.fast.packed import PackedMatrix
from overnight.nn.fast.sequence import fast_recurrence
from overnight.nn.gates import FoldedMultiplicative
from overnight.nn.recurrence import Recurrent

State = tuple[tuple[Tensor, Tensor], ...]


class ByteReader:
    """The inference form of a ``ByteLM`` for windows of bytes of many lanes: the same function, without gradients.

    It keeps its own copy of the weights, so later changes of the model do not reach it.

    Args:
        model: the model; it is not changed.
        dtype: of the products; None means the model's own.
        layers: read by the lowest so many layers only; None takes all.
        lanes: about how many texts will be read at once; the layout of the weights may depend on it.

    Example:
        >>> model = ByteLM(hidden_size=32)
        >>> reader = ByteReader(model)
        >>> state = reader.read(torch.randint(256, (7, 2)), reader.zeros(2))
        >>> h, c = state[-1]
        >>> c.shape
        torch.Size([2, 32])
    """

    @torch.no_grad()
    def __init__(
        self, model: ByteLM, dtype: torch.dtype | None = None, *, layers: int | None = None, lanes: int = 128
    ) -> None:
        self.dtype = model.output.weight.dtype if dtype is None else dtype
        self.wide = torch.promote_types(model.output.weight.dtype, torch.float32)
        self.device = model.output.weight.device
        self.hidden_size = model.hidden_size
        found = [layer for layer in model.layers if isinstance(layer, Recurrent)][:layers]
        self._folded = [self._fold(layer) for layer in found]
        self._table_VP = self._folded[0].project(model.embedding.weight.detach().to(self.dtype))
        self._layers = [_Layer(folded, lanes) for folded in self._folded]
        gates = 4 * self.hidden_size
        self._table_VG = self._table_VP[:, :gates].contiguous()
        self._table_VH = self._table_VP[:, gates:].contiguous()

    def zeros(self, lanes: int) -> State:
        """The state before the first byte: (h, c), each [B, H], of every layer that is read by, bottom first."""
        h_BH = torch.zeros(lanes, self.hidden_size, dtype=self.dtype, device=self.device)
        return tuple((h_BH, h_BH.to(self.wide)) for _ in self._layers)

    @torch.no_grad()
    def read(self, ids_TB: Tensor, state: State, reset_TB: Tensor | None = None) -> State:
        """Bytes [T, B] → the state after them.

        Args:
            ids_TB: integers 0 … 255.
            state: after the bytes before these.
            reset_TB: True where the state is zeroed before reading that byte.
        """
        if self.device.type != "cpu":
            return self._window(ids_TB, state, reset_TB)
        last = deque(self._steps(ids_TB, state, reset_TB), maxlen=1)
        return last[0] if last else state

    def _window(self, ids_TB: Tensor, state: State, reset_TB: Tensor | None) -> State:
        """``read`` with each layer's window as one call: on a GPU, few launches a step."""
        p_TBP, new = self._table_VP[ids_TB.long()], []
        for index, (folded, last) in enumerate(zip(self._folded, state, strict=True), start=1):
            h_TBH, *after = fast_recurrence(folded, p_TBP, *last, reset_TB)
            new.append((after[0], after[1]))
            if index < len(self._folded):
                p_TBP = self._folded[index].project(h_TBH)
        return tuple(new)

    def steps(self, ids_TB: Tensor, state: State, reset_TB: Tensor | None = None) -> Iterator[State]:
        """Bytes [T, B] → the state after each of them, which the next step overwrites. Otherwise as ``read``."""
        steps = self._steps(ids_TB, state, reset_TB)
        while True:
            with torch.no_grad():  # not over a yield: it would reach the caller's code
                new = next(steps, None)
            if new is None:
                return
            yield new

    def _steps(self, ids_TB: Tensor, state: State, reset_TB: Tensor | None) -> Iterator[State]:
        now = tuple((h_BH.to(self.dtype, copy=True), c_BH.to(self.wide, copy=True)) for h_BH, c_BH in state)
        resets = [] if reset_TB is None else reset_TB.any(1).tolist()
        cell = EagerCell(now[0][1], self.dtype)
        ids_TB = ids_TB.long()
        for t, ids_B in enumerate(ids_TB.unbind(0)):
            if resets and resets[t] and reset_TB is not None:
                for part_BH in (part for layer in now for part in layer):
                    part_BH[reset_TB[t]] = 0.0
            p_BG, p_BH = self._table_VG.index_select(0, ids_B), self._table_VH.index_select(0, ids_B)
            for index, (layer, (h_BH, c_BH)) in enumerate(zip(self._layers, now, strict=True)):
                if index:
                    p_BG, p_BH = layer.project(now[index - 1][0])
                m_BH = layer.h_to_m(h_BH)
                cell.scale(m_BH, p_BH, m_BH)
                z_BG = layer.m_to_z.add(p_BG, m_BH)
                cell.forward(z_BG, c_BH, c_BH, z_BG, h_BH)
            yield now

    def _fold(self, layer: Recurrent) -> FoldedMultiplicative:
        # a weight that is neither normalised nor cast would still be the layer's own
        folded = deepcopy(layer.gates.fold(self.dtype))
        assert isinstance(folded, FoldedMultiplicative)
        return folded


class _Layer:
    """One layer's weights, laid out."""

    def __init__(self, folded: FoldedMultiplicative, lanes: int) -> None:
        self.gates = len(folded.m_to_gates_GH)
        self.h_to_m = PackedMatrix(folded.hidden_to_m_HH, lanes)
        self.m_to_z = PackedMatrix(folded.m_to_gates_GH, lanes)
        self.x_to_p, self.bias_P = PackedMatrix(folded.input_weight_PD, lanes), folded.bias_P

    def project(self, x_BD: Tensor) -> Sequence[Tensor]:
        """x → the parts of p for the gates and for m."""
        p_BP = self.x_to_p(x_BD).add_(self.bias_P)
        return p_BP[:, : self.gates].contiguous(), p_BP[:, self.gates :].contiguous()
