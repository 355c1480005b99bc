"""A model's cell state along a text.

Shape suffixes: T bytes, H hidden.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from overnight.models.byte_reader import ByteReader

_WINDOW_BYTES = 4096


@dataclass(frozen=True)
class Trace:
    """A unit along a text.

    Attributes:
        bytes: the framed text, T bytes.
        values: float32 [T], the unit's cell state after each of them.
    """

    bytes: bytes
    values: NDArray[np.float32]


def states(reader: ByteReader, framed: bytes) -> NDArray[np.float32]:
    """The cell state of the reader's top layer after every byte, from a zero state; float32 [T, H]."""
    found = np.empty((len(framed), reader.hidden_size), dtype=np.float32)
    for t, c_H in enumerate(_cells(reader, framed)):
        found[t] = c_H.float().cpu().numpy()
    return found


def trace(reader: ByteReader, framed: bytes, unit: int) -> Trace:
    """One unit of ``states``, in the memory of one unit."""
    values = np.empty(len(framed), dtype=np.float32)
    for t, c_H in enumerate(_cells(reader, framed)):
        values[t] = c_H[unit].item()
    return Trace(framed, values)


def _cells(reader: ByteReader, framed: bytes) -> Iterator[Tensor]:
    state = reader.zeros(1)
    for start in range(0, len(framed), _WINDOW_BYTES):
        ids_T = torch.frombuffer(bytearray(framed[start : start + _WINDOW_BYTES]), dtype=torch.uint8)
        before = state
        for state in reader.steps(ids_T.unsqueeze(1).to(reader.device), before):
            yield state[-1][1][0]
