"""Triton kernels of the pointwise cell and of the multiplicative map. A program works on one block of one row.

Loads and stores are of the tensors' own dtypes; arithmetic is in float32. Tensors are contiguous unless their strides
are arguments: ``…_row``, ``…_gate``, ``…_group`` and ``…_column``, in elements; ``units`` is H/K.
"""

# mypy: ignore-errors
# Triton has no types, and its functions are compiled from their text.

from functools import cache
from types import SimpleNamespace


@cache
def kernels() -> SimpleNamespace:
    """The kernels by name: ``forward``, ``backward``, ``scale`` and ``scale_backward``.

    Raises:
        ImportError: where Triton is not installed.
    """
    # Triton's interpreter looks for its language among a kernel's globals, not in what encloses it
    global tl
    import triton
    import triton.language as tl

    @triton.jit
    def forward(
        z, c_last, c_new, gates, y, reset,
        z_row, z_gate, z_group, z_column, units, hidden,
        GROUPED: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        there = column < hidden
        at = z + row * z_row
        if GROUPED:
            at += (column // units) * z_group + (column % units) * z_column
        else:
            at += column * z_column
        i = tl.sigmoid(tl.load(at, mask=there, other=0.0).to(tl.float32))
        f = tl.sigmoid(tl.load(at + z_gate, mask=there, other=0.0).to(tl.float32))
        g = 2 * tl.sigmoid(2 * tl.load(at + 2 * z_gate, mask=there, other=0.0).to(tl.float32)) - 1
        o = tl.sigmoid(tl.load(at + 3 * z_gate, mask=there, other=0.0).to(tl.float32))
        state = row * hidden + column
        c = tl.load(c_last + state, mask=there, other=0.0)
        if reset is not None:
            c = tl.where(tl.load(reset + row) != 0, 0.0, c)
        c = f * c + i * g
        tl.store(c_new + state, c, mask=there)
        tl.store(y + state, o * (2 * tl.sigmoid(2 * c) - 1), mask=there)
        at = gates + 4 * row * hidden + column
        tl.store(at, i, mask=there)
        tl.store(at + hidden, f, mask=there)
        tl.store(at + 2 * hidden, g, mask=there)
        tl.store(at + 3 * hidden, o, mask=there)

    @triton.jit
    def backward(
        gates, c_last, c_new, dy, dy_more, dc, dz, reset,
        dy_row, dy_column, more_row, more_column, dz_row, dz_gate, dz_group, dz_column, units, hidden,
        GROUPED: tl.constexpr, BLOCK: tl.constexpr,
    ):  # fmt: skip
        row = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        there = column < hidden
        at = gates + 4 * row * hidden + column
        i = tl.load(at, mask=there, other=0.0).to(tl.float32)
        f = tl.load(at + hidden, mask=there, other=0.0).to(tl.float32)
        g = tl.load(at + 2 * hidden, mask=there, other=0.0).to(tl.float32)
        o = tl.load(at + 3 * hidden, mask=there, other=0.0).to(tl.float32)
        d = tl.load(dy + row * dy_row + column * dy_column, mask=there, other=0.0).to(tl.float32)
        if dy_more is not None:
            d += tl.load(dy_more + row * more_row + column * more_column, mask=there, other=0.0).to(tl.float32)
        state = row * hidden + column
        t = 2 * tl.sigmoid(2 * tl.load(c_new + state, mask=there, other=0.0)) - 1
        c = tl.load(c_last + state, mask=there, other=0.0)
        dc_new = tl.load(dc + state, mask=there, other=0.0) + d * o * (1 - t * t)
        dc_last = dc_new * f
        if reset is not None:
            fresh = tl.load(reset + row) != 0
            c = tl.where(fresh, 0.0, c)
            dc_last = tl.where(fresh, 0.0, dc_last)
        tl.store(dc + state, dc_last, mask=there)
        # dz may lie where the gates are: all of them are loaded by now
        at = dz + row * dz_row
        if GROUPED:
            at += (column // units) * dz_group + (column % units) * dz_column
        else:
            at += column * dz_column
        tl.store(at, dc_new * g * i * (1 - i), mask=there)
        tl.store(at + dz_gate, dc_new * c * f * (1 - f), mask=there)
        tl.store(at + 2 * dz_gate, dc_new * i * (1 - g * g), mask=there)
        tl.store(at + 3 * dz_gate, d * t * o * (1 - o), mask=there)

    @triton.jit
    def scale(q, p, m, p_row, p_column, hidden, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        there = column < hidden
        left = tl.load(q + row * hidden + column, mask=there, other=0.0).to(tl.float32)
        right = tl.load(p + row * p_row + column * p_column, mask=there, other=0.0).to(tl.float32)
        tl.store(m + row * hidden + column, left * right, mask=there)

    @triton.jit
    def scale_backward(dm, p, q, dq, dp, p_row, p_column, dp_row, dp_column, hidden, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        there = column < hidden
        state = row * hidden + column
        d = tl.load(dm + state, mask=there, other=0.0).to(tl.float32)
        p_value = tl.load(p + row * p_row + column * p_column, mask=there, other=0.0).to(tl.float32)
        q_value = tl.load(q + state, mask=there, other=0.0).to(tl.float32)
        tl.store(dq + state, d * p_value, mask=there)
        tl.store(dp + row * dp_row + column * dp_column, d * q_value, mask=there)

    return SimpleNamespace(forward=forward, backward=backward, scale=scale, scale_backward=scale_backward)
