"""Float64 NumPy forms of the recurrent cells, written from the papers' equations and sharing no code with the package.

Every matrix is [output width, input width]; gates stand in the order i, f, g, o.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def sigmoid(x: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-x))


def weight_norm(v: Array, g: Array) -> Array:
    """Salimans & Kingma 2016, for each output unit: w = g v / ‖v‖."""
    out = np.empty_like(v)
    for row in np.ndindex(v.shape[:-1]):
        out[row] = g[row] * v[row] / np.sqrt(np.sum(v[row] ** 2))
    return out


def gate(z: Array, c: Array) -> tuple[Array, Array]:
    i, f, g, o = np.split(z, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def over_time(
    x: Array,
    h0: Array,
    c0: Array,
    preactivation: Callable[[Array, Array], Array],
    projection: Array | None,
    reset: npt.NDArray[np.bool_] | None,
) -> tuple[Array, Array, Array]:
    """x [T, B, D] → h [T, B, N], last h, last c; ``preactivation`` takes one lane's x and last h."""
    time, batch, _ = x.shape
    out, h, c = np.zeros((time, *h0.shape)), h0.copy(), c0.copy()
    for t in range(time):
        for b in range(batch):
            if reset is not None and reset[t, b]:
                h[b], c[b] = 0.0, 0.0
            cell_out, c[b] = gate(preactivation(x[t, b], h[b]), c[b])
            h[b] = cell_out if projection is None else projection @ cell_out
        out[t] = h
    return out, h, c


def lstm(
    x: Array,
    h0: Array,
    c0: Array,
    w_x: Array,
    w_h: Array,
    bias: Array,
    reset: npt.NDArray[np.bool_] | None = None,
    projection: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Hochreiter & Schmidhuber 1997 with forget gates (Gers et al. 2000); with a projection Sak et al. 2014."""
    return over_time(x, h0, c0, lambda x_t, h: w_x @ x_t + w_h @ h + bias, projection, reset)


def factorized_lstm(
    x: Array,
    h0: Array,
    c0: Array,
    w_1x: Array,
    w_1h: Array,
    w_2: Array,
    bias: Array,
    reset: npt.NDArray[np.bool_] | None = None,
    projection: Array | None = None,
) -> tuple[Array, Array, Array]:
    """F-LSTM, Kuchaiev & Ginsburg 2017: one affine map of [x; h] through W₁ (r rows), then W₂."""
    w_1 = np.concatenate([w_1x, w_1h], axis=1)
    return over_time(x, h0, c0, lambda x_t, h: w_2 @ (w_1 @ np.concatenate([x_t, h])) + bias, projection, reset)


def grouped_lstm(
    x: Array,
    h0: Array,
    c0: Array,
    w_x: Array,
    w_h: Array,
    bias: Array,
    reset: npt.NDArray[np.bool_] | None = None,
    projection: Array | None = None,
) -> tuple[Array, Array, Array]:
    """G-LSTM, Kuchaiev & Ginsburg 2017: w_x [K, 4H/K, D/K], w_h [K, 4H/K, N/K]; the bias [4H] is the whole cell's."""
    groups = len(w_x)

    def preactivation(x_t: Array, h: Array) -> Array:
        slices = zip(np.split(x_t, groups), np.split(h, groups), strict=True)
        parts = [np.split(w_x[j] @ x_j + w_h[j] @ h_j, 4) for j, (x_j, h_j) in enumerate(slices)]
        return np.concatenate([part[gate_index] for gate_index in range(4) for part in parts]) + bias

    return over_time(x, h0, c0, preactivation, projection, reset)


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
    projection: Array | None = None,
) -> tuple[Array, Array, Array]:
    """Krause et al. 2016 as Radford et al. 2017 use it: m = (W_mx x) ⊙ (W_mh h) enters every gate in the place of h."""

    def preactivation(x_t: Array, h: Array) -> Array:
        return w_x @ x_t + w_m @ ((w_mx @ x_t) * (w_mh @ h)) + bias

    return over_time(x, h0, c0, preactivation, projection, reset)


def multiplicative_model(
    ids: npt.NDArray[np.int64], embedding: Array, layers: list[dict[str, Array]], w_out: Array, bias_out: Array
) -> Array:
    """Byte language model: embedding → stacked multiplicative LSTMs from zero → logits [T, B, V]."""
    x = embedding[ids]
    for weights in layers:
        zero = np.zeros((ids.shape[1], len(weights["w_mh"])))
        x, _, _ = multiplicative_lstm(x, zero, zero, **weights)
    return x @ w_out.T + bias_out
