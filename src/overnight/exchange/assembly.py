"""Arrays of another layout → a ByteLM: sizes that fit, numbers that are numbers, gates in our order.

Shape suffixes: D embedding width, H hidden, G = 4H gates, V = 256.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from overnight.errors import UserError
from overnight.models.byte_lm import BYTES, ByteLM

GATES = "ifgo"
"""The order of our gates, i, f, g, o; the published arrays have the cell's (u there) last."""


def checked(name: str, value: NDArray[np.generic] | Tensor, shape: Sequence[int], because: str) -> Tensor:
    """One array as a float32 tensor of its own.

    Args:
        name: where it stands, for an error.
        value: the array.
        shape: what it must have.
        because: where that shape follows from, for an error.

    Raises:
        UserError: if it has another shape, is not floating point, or holds a NaN or an infinity.
    """
    if tuple(value.shape) != tuple(shape):
        raise UserError(
            f"{name} has shape {tuple(value.shape)}; {because} it must be {tuple(shape)}.",
            "Give the weights of a byte-level multiplicative LSTM, all from one model.",
        )
    if isinstance(value, np.ndarray):
        if value.dtype.kind != "f":
            raise UserError(f"{name} holds {value.dtype}, not floating-point numbers.", "Give the trained weights.")
        with np.errstate(over="ignore"):
            tensor = torch.from_numpy(np.array(value, dtype=np.float32, order="C"))
    else:
        if not value.is_floating_point():
            raise UserError(f"{name} holds {value.dtype}, not floating-point numbers.", "Give the trained weights.")
        tensor = value.detach().to(torch.float32, copy=True).contiguous()
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise UserError(
            f"{name} holds {bad:,} of {tensor.numel():,} numbers that are NaN, infinite or too large for float32.",
            "The file is damaged or the training diverged; use another copy or an earlier checkpoint.",
        )
    return tensor


def reordered(gates: Tensor, order: str) -> Tensor:
    """A tensor whose first dimension is 4H, its four blocks brought from ``order`` into i, f, g, o.

    >>> reordered(torch.arange(8), "ifog").tolist()
    [0, 1, 2, 3, 6, 7, 4, 5]
    """
    blocks = dict(zip(order, gates.chunk(4), strict=True))
    return torch.cat([blocks[gate] for gate in GATES])


def from_ours(gates: Tensor, order: str) -> Tensor:
    """The inverse of ``reordered``.

    >>> from_ours(reordered(torch.arange(8), "ifog"), "ifog").tolist()
    [0, 1, 2, 3, 4, 5, 6, 7]
    """
    blocks = dict(zip(GATES, gates.chunk(4), strict=True))
    return torch.cat([blocks[gate] for gate in order])


def shapes(hidden_size: int, embedding_size: int, layers: int, weight_norm: bool) -> dict[str, tuple[int, ...]]:
    """The names and shapes of a ByteLM's state dict, without making one: the sizes may be anybody's.

    >>> shapes(2, 3, 1, False)["layers.0.gates.input_to_m.weight"]
    (2, 3)
    """
    gates = 4 * hidden_size
    found: dict[str, tuple[int, ...]] = {"embedding.weight": (BYTES, embedding_size)}
    for layer in range(layers):
        below = hidden_size if layer else embedding_size
        found[f"layers.{layer}.gates.bias"] = (gates,)
        for name, shape in (
            ("input_to_gates", (gates, below)),
            ("input_to_m", (hidden_size, below)),
            ("hidden_to_m", (hidden_size, hidden_size)),
            ("m_to_gates", (gates, hidden_size)),
        ):
            if weight_norm:
                found[f"layers.{layer}.gates.{name}.weight_v"] = shape
                found[f"layers.{layer}.gates.{name}.weight_g"] = shape[:1]
            else:
                found[f"layers.{layer}.gates.{name}.weight"] = shape
    return found | {"output.weight": (BYTES, hidden_size), "output.bias": (BYTES,)}


def model_of(state: Mapping[str, Tensor]) -> ByteLM:
    """The ByteLM whose state dict this is, sizes taken from its tensors; in evaluation mode.

    A direction of length zero under weight normalisation is a row of zeros here as in the published code; it gets
    another direction and the gain 0, because 0 / 0 is no number.
    """
    state = dict(state)
    for name in [name for name in state if name.endswith("weight_v")]:
        zero_O = state[name].norm(dim=-1) == 0
        state[name][zero_O] = 1.0
        state[name.removesuffix("v") + "g"][zero_O] = 0.0
    with torch.random.fork_rng(devices=[]):  # the initial values are drawn, though nothing is made of them
        model = ByteLM(
            hidden_size=state["output.weight"].shape[1],
            embedding_size=state["embedding.weight"].shape[1],
            layers=sum(name.endswith("gates.bias") for name in state),
            weight_norm=any(name.endswith("weight_v") for name in state),
        )
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)
