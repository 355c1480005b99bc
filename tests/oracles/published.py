"""Float64 NumPy forms of the two published byte models, each in its own layout, sharing no code with the package.

``arrays``: the fifteen arrays of Radford et al. 2017. ``reference``: the nested state dict of Puri et al. 2018.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def from_arrays(arrays: Sequence[npt.NDArray[Any]], ids: Sequence[int]) -> tuple[Array, Array]:
    """One text from the zero state → logits [T, 256] and cell states [T, H].

    w ← g w / ‖w‖ for every column; m = (x wmx)(h wmh); i, f, o, u = split(x wx + m wh + b, 4);
    c = σ(f) c + σ(i) tanh(u); h = σ(o) tanh(c).
    """
    a = [array.astype(np.float64) for array in arrays]
    embedding, wx, wh, wmx, wmh, b = a[0], a[1], np.concatenate(a[2:6], axis=1), a[6], a[7], a[8]
    for weight, gain in ((wx, a[9]), (wh, a[10]), (wmx, a[11]), (wmh, a[12])):
        length = np.sqrt(np.sum(weight**2, axis=0))
        weight *= np.where(length > 0, gain / np.where(length > 0, length, 1.0), 0.0)
    h = c = np.zeros(len(wmh))
    logits, cells = [], []
    for byte in ids:
        x = embedding[byte]
        m = (x @ wmx) * (h @ wmh)
        i, f, o, u = np.split(x @ wx + m @ wh + b, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(u)
        h = sigmoid(o) * np.tanh(c)
        logits.append(h @ a[13] + a[14])
        cells.append(c)
    return np.array(logits), np.array(cells)


def from_reference(state: Mapping[str, Any], ids: Sequence[int]) -> tuple[Array, Array]:
    """One text from the zero state → logits [T, 256] and the last layer's cell states [T, H].

    z = W_ih x + b_ih + W_hh m + b_hh with m = (W_mih x)(W_mhh h); i, f, g, o = split(z, 4); with weight normalisation
    a matrix is w_v's rows, each divided by its length and multiplied with its w_g.
    """
    cell = {name: np.asarray(value, dtype=np.float64) for name, value in state["encoder"]["rnn"].items()}
    embedding = np.asarray(state["encoder"]["encoder"]["weight"], dtype=np.float64)
    layers = len({name.split(".")[1] for name in cell})

    def matrix(name: str) -> Array:
        if name in cell:
            return cell[name]
        v: Array = cell[f"{name}_v"]
        return v / np.sqrt((v**2).sum(axis=1, keepdims=True)) * cell[f"{name}_g"]

    names = ("w_ih", "w_hh", "w_mih", "w_mhh")
    weights = [{name: matrix(f"rnns.{layer}.{name}") for name in names} for layer in range(layers)]
    biases = [sum(cell.get(f"rnns.{layer}.{name}", 0.0) for name in ("b_ih", "b_hh")) for layer in range(layers)]
    h = [np.zeros(len(w["w_mhh"])) for w in weights]
    c = [np.zeros(len(w["w_mhh"])) for w in weights]
    decoder = {name: np.asarray(value, dtype=np.float64) for name, value in state["decoder"].items()}
    logits, cells = [], []
    for byte in ids:
        x = embedding[byte]
        for layer, (w, bias) in enumerate(zip(weights, biases, strict=True)):
            m = (w["w_mih"] @ x) * (w["w_mhh"] @ h[layer])
            i, f, g, o = np.split(w["w_ih"] @ x + w["w_hh"] @ m + bias, 4)
            c[layer] = sigmoid(f) * c[layer] + sigmoid(i) * np.tanh(g)
            x = h[layer] = sigmoid(o) * np.tanh(c[layer])
        logits.append(decoder["weight"] @ x + decoder["bias"])
        cells.append(c[-1])
    return np.array(logits), np.array(cells)
