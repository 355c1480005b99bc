"""Float64 NumPy forms of the recurrent cells, written from the papers' equations and sharing no code with the package.

Every matrix is [output width, input width]; gates stand in the order i, f, g, o.
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def weight_norm(v: Array, g: Array) -> Array:
    """Salimans & Kingma 2016, for each output unit: w = g v / ‖v‖."""
    out = np.empty_like(v)
    for row in range(len(v)):
        out[row] = g[row] * v[row] / np.sqrt(np.sum(v[row] ** 2))
    return out


def gate(z: Array, c: Array) -> tuple[Array, Array]:
    i, f, g, o = np.split(z, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def lstm(
    x: Array, h0: Array, c0: Array, w_x: Array, w_h: Array, bias: Array, reset: npt.NDArray[np.bool_] | None = None
) -> tuple[Array, Array, Array]:
    """Hochreiter & Schmidhuber 1997 with forget gates (Gers et al. 2000): x [T, B, D] → h [T, B, H], last h, last c."""
    time, batch, _ = x.shape
    out, h, c = np.zeros((time, *h0.shape)), h0.copy(), c0.copy()
    for t in range(time):
        for b in range(batch):
            if reset is not None and reset[t, b]:
                h[b], c[b] = 0.0, 0.0
            h[b], c[b] = gate(w_x @ x[t, b] + w_h @ h[b] + bias, c[b])
        out[t] = h
    return out, h, c


def multiplicative_lstm(
    x: Array,
    h0: Array,
    c0: Array,
    w_x: Array,
    w_mx: Array,
    w_mh: Array,
    w_m: Array,
    bias: Array,
    reset: npt.NDArray[np.bool_] | None = None,
) -> tuple[Array, Array, Array]:
    """Krause et al. 2016 as Radford et al. 2017 use it: m = (W_mx x) ⊙ (W_mh h) enters every gate in the place of h."""
    time, batch, _ = x.shape
    out, h, c = np.zeros((time, *h0.shape)), h0.copy(), c0.copy()
    for t in range(time):
        for b in range(batch):
            if reset is not None and reset[t, b]:
                h[b], c[b] = 0.0, 0.0
            m = (w_mx @ x[t, b]) * (w_mh @ h[b])
            h[b], c[b] = gate(w_x @ x[t, b] + w_m @ m + bias, c[b])
        out[t] = h
    return out, h, c


def multiplicative_model(
    ids: npt.NDArray[np.int64], embedding: Array, layers: list[dict[str, Array]], w_out: Array, bias_out: Array
) -> Array:
    """Byte language model: embedding → stacked multiplicative LSTMs from zero → logits [T, B, V]."""
    x = embedding[ids]
    for weights in layers:
        zero = np.zeros((ids.shape[1], len(weights["w_mh"])))
        x, _, _ = multiplicative_lstm(x, zero, zero, **weights)
    return x @ w_out.T + bias_out
