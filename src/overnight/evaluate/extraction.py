"""Features and bits of many texts with a byte language model, in length-sorted batches of lanes.

Shape suffixes: T time, B lanes, H hidden, V = 256.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from overnight.errors import UserError
from overnight.evaluate.framing import frame
from overnight.models.byte_lm import ByteLM
from overnight.nn.final_states import final_states

Text = str | bytes
Pool = Literal["last", "mean", "max"]
State = dict[str, Any]

CALL_BYTES = 8192
"""Bytes of one call of the model, over all lanes: projected inputs alone take 10 or 20 bytes a hidden unit for each."""


def layer_index(model: ByteLM, layer: int) -> int:
    """A layer counted from the bottom, or from the top where negative → counted from the bottom.

    Raises:
        UserError: if the model has no such layer.
    """
    count = len(model.layers)
    if not -count <= layer < count:
        raise UserError(f"layer={layer}: the model has {count} of them.", f"Choose from {-count} to {count - 1}.")
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


def framed_ids(text: Text) -> Tensor:
    """The bytes of the framed text, uint8 [T]."""
    return torch.frombuffer(bytearray(frame(text)), dtype=torch.uint8)


def extract(
    model: ByteLM,
    texts: Iterable[Text],
    *,
    layer: int = -1,
    pool: str = "last",
    tanh: bool = False,
    lanes: int = 128,
    dtype: torch.dtype | None = None,
) -> Iterator[NDArray[np.float32]]:
    """The cell state [H] of each text in turn, read framed and from a zero state; float32.

    Raises:
        UserError: at once for a layer that is not there, an unknown ``pool`` or ``lanes`` below 1.
    """
    index = layer_index(model, layer)
    check_pool(pool)
    device = model.output.weight.device

    def read(ids_TB: Tensor, state: State | None, reset_TB: Tensor) -> State:
        with _autocast(device, dtype):
            _, carry = model.hidden(ids_TB.long(), state, reset_TB)
        return carry

    states = final_states(
        read, map(framed_ids, texts), lanes=lanes, window=max(1, CALL_BYTES // max(1, lanes)), device=device
    )
    return (_feature(state["c"][index], tanh) for state in states)


def score(
    model: ByteLM, texts: Iterable[Text], *, lanes: int = 64, dtype: torch.dtype | None = None
) -> Iterator[float]:
    """Bits of each text in turn: Σ -log₂ p(byte | the bytes before it) over the framed text but its first line feed."""
    device = model.output.weight.device

    def read(ids_TB: Tensor, state: State | None, reset_TB: Tensor) -> State:
        time, batch = ids_TB.shape
        if state is None or not time:
            _, carry = model.hidden(ids_TB.long(), None, reset_TB)
            zeros = torch.zeros(batch, dtype=torch.float64, device=device)
            return {"carry": carry, "bits": zeros, "logits": torch.zeros(batch, 256, device=device), "begun": zeros > 0}
        ids_TB = ids_TB.long()
        with _autocast(device, dtype):
            logits_TBV, carry = model(ids_TB, state["carry"], reset_TB)
        logits_TBV = logits_TBV.float()
        before_TBV = torch.cat([state["logits"].unsqueeze(0), logits_TBV[:-1]])
        nats_TB = F.cross_entropy(before_TBV.flatten(0, 1), ids_TB.flatten(), reduction="none").view(time, batch)
        begun_TB = state["begun"] | (reset_TB.cumsum(0) > 0)
        # the byte that a text begins with has nothing before it
        counted_TB = begun_TB & ~reset_TB
        bits_B = state["bits"] + nats_TB.double().masked_fill(~counted_TB, 0.0).sum(0) / math.log(2)
        return {"carry": carry, "bits": bits_B, "logits": logits_TBV[-1], "begun": begun_TB[-1]}

    states = final_states(
        read, map(framed_ids, texts), lanes=lanes, window=max(1, CALL_BYTES // max(1, lanes)), device=device
    )
    return (float(state["bits"]) for state in states)


def _feature(c_H: Tensor, tanh: bool) -> NDArray[np.float32]:
    values: NDArray[np.float32] = (c_H.tanh() if tanh else c_H).float().cpu().numpy()
    return values


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
