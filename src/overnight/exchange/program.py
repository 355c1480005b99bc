"""A byte model as a program of standard operations: one step, or a window of any length.

Weight normalisation is folded into the weights. Everything is float32; bytes are int64.

Shape suffixes: T time, B batch (lanes), L layers, D width of the embedding, H hidden, V = 256.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from overnight.errors import UserError
from overnight.exchange.check import accept, difference, of_step
from overnight.models.byte_lm import ByteLM
from overnight.nn.gates import FoldedMultiplicative, MultiplicativeGates
from overnight.nn.recurrence import Recurrent, cell

INPUTS, OUTPUTS = ("ids", "h", "c"), ("logits", "h_next", "c_next")
TRACED_TIME, TRACED_BATCH = 7, 3  # neither 0 nor 1, which torch.export would keep as constants


class _Layer(nn.Module):
    """A layer with its weights folded, as buffers."""

    input_weight_PD: Tensor
    bias_P: Tensor
    hidden_to_m_HH: Tensor
    m_to_gates_GH: Tensor

    def __init__(self, gates: MultiplicativeGates) -> None:
        super().__init__()
        for name, tensor in vars(gates.fold(torch.float32)).items():
            self.register_buffer(name, tensor.detach().clone())

    def folded(self) -> FoldedMultiplicative:
        return FoldedMultiplicative(self.input_weight_PD, self.bias_P, self.hidden_to_m_HH, self.m_to_gates_GH)


class Step(nn.Module):
    """One byte of every lane: ids [B], h and c [B, L, H] → logits [B, 256] for the byte after it, and the new h and c.

    Args:
        model: whose weights are copied.
    """

    embedding_VD: Tensor
    output_weight_VH: Tensor
    output_bias_V: Tensor

    def __init__(self, model: ByteLM) -> None:
        super().__init__()
        layers = cast(Iterable[Recurrent], model.layers)
        self.layers = nn.ModuleList(_Layer(cast(MultiplicativeGates, layer.gates)) for layer in layers)
        self.register_buffer("embedding_VD", model.embedding.weight.detach().clone())
        self.register_buffer("output_weight_VH", model.output.weight.detach().clone())
        self.register_buffer("output_bias_V", model.output.bias.detach().clone())

    def forward(self, ids: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.embedding(ids, self.embedding_VD)
        h_last, c_last = [], []
        for index, layer in enumerate(cast(Iterable[_Layer], self.layers)):
            folded = layer.folded()
            x, c_BH = cell(folded.preactivation(folded.project(x), h[:, index]), c[:, index])
            h_last.append(x)
            c_last.append(c_BH)
        logits_BV = F.linear(x, self.output_weight_VH, self.output_bias_V)
        return logits_BV, torch.stack(h_last, 1), torch.stack(c_last, 1)


class Window(Step):
    """A window of bytes: ids [T, B], h and c [B, L, H] → logits [T, B, 256], and h and c after the last byte."""

    def forward(self, ids: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.embedding(ids, self.embedding_VD)
        h_last, c_last = [], []
        for index, layer in enumerate(cast(Iterable[_Layer], self.layers)):
            x, h_BH, c_BH = _over_time(layer.folded(), x, h[:, index], c[:, index])
            h_last.append(h_BH)
            c_last.append(c_BH)
        logits_TBV = F.linear(x, self.output_weight_VH, self.output_bias_V)
        return logits_TBV, torch.stack(h_last, 1), torch.stack(c_last, 1)


def _over_time(folded: FoldedMultiplicative, x_TBD: Tensor, h_BH: Tensor, c_BH: Tensor) -> tuple[Tensor, ...]:
    """The recurrence as one operation of the exported program, so that it takes any number of steps."""
    from torch._higher_order_ops.scan import scan  # not public yet in torch 2.13; `exported` says so where it fails

    def step(state: list[Tensor], p_BP: Tensor) -> tuple[list[Tensor], Tensor]:
        h, c = cell(folded.preactivation(p_BP, state[0]), state[1])
        return [h, c], h.clone()

    # scan wants a state of the same strides in and out; a layer's slice of [B, L, H] has others
    (h_BH, c_BH), h_TBH = scan(step, [h_BH.contiguous(), c_BH.contiguous()], folded.project(x_TBD))
    return h_TBH, h_BH, c_BH


def example(model: ByteLM, window: bool) -> tuple[tuple[Tensor, ...], dict[str, dict[int, Dim]]]:
    """Inputs to trace with, and which of their dimensions vary."""
    batch, time = Dim("batch", min=1), Dim("time", min=1)
    shape = (TRACED_TIME, TRACED_BATCH) if window else (TRACED_BATCH,)
    state = torch.zeros(TRACED_BATCH, len(model.layers), model.hidden_size)
    varies = {"ids": {0: time, 1: batch} if window else {0: batch}, "h": {0: batch}, "c": {0: batch}}
    return (torch.zeros(shape, dtype=torch.long), state, state.clone()), varies


def exported(model: ByteLM, window: bool) -> ExportedProgram:
    """The program of ``torch.export``, for any batch and, of a window, any length of at least 1.

    Raises:
        UserError: if this torch cannot export it.
    """
    inputs, varies = example(model, window)
    program = (Window if window else Step)(model).eval()
    try:
        with torch.no_grad():
            return torch.export.export(program, inputs, dynamic_shapes=varies)
    # what a version of torch cannot trace ends in whatever it met
    except Exception as error:
        raise UserError(
            f"torch {torch.__version__} cannot export the model ({type(error).__name__}; --debug shows all of it).",
            "Use torch 2.13, which this was made with.",
        ) from error


def write_programs(model: ByteLM, folder: Path) -> dict[str, float]:
    """Write ``step.pt2`` and ``window.pt2``, read them back and run them.

    Returns:
        The largest difference to the original, by file.

    Raises:
        UserError: if this torch cannot export the model, or a file does not compute what the model does.
    """
    differences = {}
    for name, window in (("step.pt2", False), ("window.pt2", True)):
        torch.export.save(exported(model, window), folder / name)
        run = torch.export.load(folder / name).module()
        differences[name] = accept(name, difference(model, run if window else of_step(run)))
    return differences
