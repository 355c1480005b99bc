"""A unit's cell state after every byte of a text.

Shape suffixes: T bytes, H hidden.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from overnight.evaluate.extraction import Text, layer_index, unit_index
from overnight.evaluate.framing import frame
from overnight.models.byte_lm import ByteLM
from overnight.models.byte_stepper import ByteStepper


@dataclass(frozen=True)
class Trace:
    """A unit along a text.

    Attributes:
        bytes: the framed text, T bytes.
        values: float32 [T], the unit's cell state after each of them.
    """

    bytes: bytes
    values: NDArray[np.float32]


def states(model: ByteLM, text: Text, *, layer: int = -1) -> NDArray[np.float32]:
    """The cell state of a layer after every byte of the framed text, float32 [T, H].

    Raises:
        UserError: if there is no such layer.
    """
    index = layer_index(model, layer)
    framed = frame(text)
    found = np.empty((len(framed), model.hidden_size), dtype=np.float32)
    for t, c_H in enumerate(_cells(model, framed, index)):
        found[t] = c_H.float().cpu().numpy()
    return found


def trace(model: ByteLM, text: Text, unit: int, *, layer: int = -1) -> Trace:
    """One unit of ``states``, in the memory of one unit.

    Raises:
        UserError: if there is no such layer or unit.
    """
    index, unit = layer_index(model, layer), unit_index(model, unit)
    framed = frame(text)
    values = np.empty(len(framed), dtype=np.float32)
    for t, c_H in enumerate(_cells(model, framed, index)):
        values[t] = c_H[unit].item()
    return Trace(framed, values)


def _cells(model: ByteLM, framed: bytes, index: int) -> Iterator[Tensor]:
    stepper = ByteStepper(model)
    state = stepper.state(model.initial_carry(1))
    device = model.output.weight.device
    for value in framed:
        _, state = stepper.step(torch.tensor([value], device=device), state)
        yield state[index][1][0]
