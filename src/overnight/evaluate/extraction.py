"""Features and bits of many texts with a byte language model, in length-sorted batches of lanes.

Shape suffixes: T time, B lanes, H hidden, V = 256.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from overnight.errors import UserError
from overnight.models.byte_lm import ByteLM
from overnight.models.byte_reader import ByteReader, State
from overnight.nn.final_states import final_states

Pool = Literal["last", "mean", "max"]

CPU_WINDOW, WINDOW = 32, 64
"""Steps read at once: on a CPU few, since lanes join at a window's start; elsewhere more, since each has its cost."""

_BEFORE = {"mean": 0.0, "max": -math.inf}


def layer_index(model: ByteLM, layer: int) -> int:
    """A layer counted from the bottom, or from the top where negative → counted from the bottom.

    Raises:
        UserError: if the model has no such layer.
    """
    count = len(model.layers)
    if not -count <= layer < count:
        raise UserError(
            f"layer={layer}: the model has {count} layer{'s' * (count > 1)}.", f"Choose from {-count} to {count - 1}."
        )
    return layer % count


def unit_index(model: ByteLM, unit: int) -> int:
    """The unit, if the model has it.

    Raises:
        UserError: if it is not one of 0 … H - 1.
    """
    if not 0 <= unit < model.hidden_size:
        raise UserError(
            f"unit={unit}: the model has {model.hidden_size:,} units a layer.",
            f"Choose from 0 to {model.hidden_size - 1}.",
        )
    return unit


def check_pool(pool: str) -> None:
    """Raise a UserError unless ``pool`` is known."""
    if pool not in get_args(Pool):
        raise UserError(f"pool={pool!r} is not known.", f"Choose one of {', '.join(get_args(Pool))}.")


def cell_states(
    reader: ByteReader, framed: Iterable[bytes], *, pool: str = "last", lanes: int = 128
) -> Iterator[NDArray[np.float32]]:
    """The cell state [H] that the reader's top layer has of each text in turn, each read alone from a zero state.

    Args:
        reader: of a model, up to the wanted layer.
        framed: bytes of the texts, each at least one.
        pool: the state after the ``last`` byte, or the ``mean`` or the ``max`` of the states after every byte.
        lanes: texts read at once.

    Raises:
        UserError: at once for an unknown ``pool`` or ``lanes`` below 1.
    """
    check_pool(pool)

    def read(ids_TB: Tensor, state: State | None, reset_TB: Tensor) -> State:
        return reader.read(ids_TB, reader.zeros(ids_TB.shape[1]) if state is None else state, reset_TB)

    def pooled(
        ids_TB: Tensor, state: tuple[State, Tensor, Tensor] | None, reset_TB: Tensor
    ) -> tuple[State, Tensor, Tensor]:
        lanes = ids_TB.shape[1]
        if state is None:
            so_far_BH = torch.full(
                (lanes, reader.hidden_size), _BEFORE[pool], dtype=torch.float64, device=ids_TB.device
            )
            return reader.zeros(lanes), so_far_BH, so_far_BH.new_zeros(lanes)
        before, so_far_BH, count_B = state[0], state[1].clone(), state[2].clone()
        after = before
        resets = reset_TB.any(1).tolist()
        for t, after in enumerate(reader.steps(ids_TB, before, reset_TB)):
            if resets[t]:  # what came before was the filling in front of a text
                so_far_BH[reset_TB[t]], count_B[reset_TB[t]] = _BEFORE[pool], 0
            c_BH = after[-1][1]
            count_B += 1
            if pool == "mean":
                so_far_BH += c_BH
            else:
                torch.maximum(so_far_BH, c_BH, out=so_far_BH)
        return after, so_far_BH, count_B

    texts, window, device = map(_ids, framed), _window(reader), reader.device
    if pool == "last":
        last = final_states(read, texts, lanes=lanes, window=window, device=device)
        return (_row(state[-1][1]) for state in last)
    states = final_states(pooled, texts, lanes=lanes, window=window, device=device)
    return (_row(so_far_H / count if pool == "mean" else so_far_H) for _, so_far_H, count in states)


def bits(model: ByteLM, reader: ByteReader, framed: Iterable[bytes], *, lanes: int = 64) -> Iterator[float]:
    """Bits of each text in turn: Σ -log₂ p(byte | the bytes before it) over its bytes but the first.

    Args:
        model: whose output layer is used.
        reader: of the model, all layers.
        framed: bytes of the texts, each at least one.
        lanes: texts read at once.

    Raises:
        UserError: at once if ``lanes`` is below 1.
    """
    weight_VH, bias_V = model.output.weight.detach().to(reader.dtype), model.output.bias.detach().to(reader.dtype)

    def read(
        ids_TB: Tensor, state: tuple[State, Tensor, Tensor, Tensor] | None, reset_TB: Tensor
    ) -> tuple[State, Tensor, Tensor, Tensor]:
        batch = ids_TB.shape[1]
        if state is None:
            bits_B = torch.zeros(batch, dtype=torch.float64, device=ids_TB.device)
            return reader.zeros(batch), bits_B, bits_B.new_zeros(batch, len(bias_V)), bits_B > 0
        after, bits_B, before_BV, begun_B = state
        ids_TB, tops = ids_TB.long(), []
        for after in reader.steps(ids_TB, state[0], reset_TB):
            tops.append(after[-1][0].clone())
        logits_TBV = F.linear(torch.stack(tops), weight_VH, bias_V).double()
        before_TBV = torch.cat([before_BV.unsqueeze(0), logits_TBV[:-1]])
        nats_TB = F.cross_entropy(before_TBV.flatten(0, 1), ids_TB.flatten(), reduction="none").view(ids_TB.shape)
        begun_TB = begun_B | (reset_TB.cumsum(0) > 0)
        # the byte that a text begins with has nothing before it
        counted_TB = begun_TB & ~reset_TB
        bits_B = bits_B + nats_TB.masked_fill(~counted_TB, 0.0).sum(0) / math.log(2)
        return after, bits_B, logits_TBV[-1], begun_TB[-1]

    states = final_states(read, map(_ids, framed), lanes=lanes, window=_window(reader), device=reader.device)
    return (float(state[1]) for state in states)


def _window(reader: ByteReader) -> int:
    return CPU_WINDOW if reader.device.type == "cpu" else WINDOW


def _ids(framed: bytes) -> Tensor:
    return torch.frombuffer(bytearray(framed), dtype=torch.uint8)


def _row(c_H: Tensor) -> NDArray[np.float32]:
    row: NDArray[np.float32] = c_H.float().cpu().numpy()
    return row
