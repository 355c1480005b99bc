"""A byte language model one byte at a time, for generation.

``ByteLM.forward`` normalises, joins and casts its weights on every call, which is nothing beside a window of bytes and
most of the time beside a single one. Here that is done once, and the 256 possible inputs are projected once.

Shape suffixes as in ``overnight.models.byte_lm``; P = width of a projected input.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from overnight.models.byte_lm import ByteLM, Carry
from overnight.nn.recurrence import Recurrent
from overnight.nn.stepping import FoldedLayer, LaneFixed

State = list[tuple[Tensor, Tensor]]
Fixed = Mapping[int, Mapping[int, float]]


class ByteStepper:
    """The inference form of a ``ByteLM``: the same function, one byte of every lane a call.

    It keeps its own folded copy of the weights, so later changes of the model do not reach it.

    Args:
        model: the model; it is not changed.
        dtype: of the products; None means the model's own. ``torch.bfloat16`` halves the memory that each byte reads.
        fixed: layer (from 0, the bottom) → unit → value: that unit's cell state is set to the value after every cell
            update and before h is taken from it, c_t[unit] = value and then h_t = σ(o) tanh(c_t).

    Example:
        >>> model = ByteLM(hidden_size=32)
        >>> stepper = ByteStepper(model)
        >>> logits, state = stepper.step(torch.tensor([104, 105]), stepper.state(model.initial_carry(2)))
        >>> logits.shape
        torch.Size([2, 256])
    """

    @torch.no_grad()
    def __init__(self, model: ByteLM, dtype: torch.dtype | None = None, fixed: Fixed | None = None) -> None:
        self.dtype = model.output.weight.dtype if dtype is None else dtype
        layers = [layer for layer in model.layers if isinstance(layer, Recurrent)]
        self._layers = [FoldedLayer(layer, self.dtype, (fixed or {}).get(index)) for index, layer in enumerate(layers)]
        self._table_VP = self._layers[0].folded.project(model.embedding.weight.detach().to(self.dtype))
        self._output_weight_VH = model.output.weight.detach().to(self.dtype, copy=True)
        self._output_bias_V = model.output.bias.detach().to(self.dtype, copy=True)

    def state(self, carry: Carry) -> State:
        """A model's carry (``h`` and ``c``, each [B, L, H]) as this class keeps it: (h, c) for every layer."""
        pairs = zip(carry["h"].unbind(1), carry["c"].unbind(1), strict=True)
        return [(h_BH.to(self.dtype), c_BH) for h_BH, c_BH in pairs]

    @torch.no_grad()
    def step(
        self, ids_B: Tensor, state: State, lane_fixed: Mapping[int, LaneFixed] | None = None
    ) -> tuple[Tensor, State]:
        """Read one byte of every lane → logits [B, 256] for the next one, in float32 or wider, and the new state.

        ``lane_fixed`` is, for layers from the bottom, what ``fixed`` is for all lanes: units fixed in single lanes, as
        (lanes, units, values).
        """
        new: State = []
        x_BH = p_BP = self._table_VP[ids_B]
        for index, (layer, last) in enumerate(zip(self._layers, state, strict=True)):
            if index:
                p_BP = layer.folded.project(x_BH)
            new.append(layer.step(p_BP, last, (lane_fixed or {}).get(index)))
            x_BH = new[-1][0]
        logits_BV = F.linear(x_BH, self._output_weight_VH, self._output_bias_V)
        return logits_BV.to(torch.promote_types(self.dtype, torch.float32)), new
