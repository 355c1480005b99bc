"""Triton kernels of the two-pass step. Imported by ``fused_cuda`` only, since Triton need not be installed.

A program works on one chunk of one layer. One launch makes the second pass of a group of layers, whose data are still
in the L2 cache, and the first pass of the next group. Chunks of all layers are numbered in one row; ``layer_of`` says
whose each is. Loads and stores are of float32, bfloat16 or float16; arithmetic is in float32, sums of squares are trees
in float32 inside a round and float64 from there on.

    pointers: int64 [L, 4], addresses of w, g and the state; L layers.
    numbers:  float64 [L, 3], lr and factors of the bias correction.
    sizes:    int64 [L, 4], elements, elements a chunk, first chunk, chunks.
    squares:  float64 [chunks, 2], or [L, 2] where they are summed already.
"""

# mypy: ignore-errors
# Triton has no types, and its functions are compiled from their text.

import triton
import triton.language as tl

TYPES = {"float32": tl.float32, "bfloat16": tl.bfloat16, "float16": tl.float16}


@triton.jit
def _layer(layer_of, sizes, chunk_number, ALIGNED: tl.constexpr):
    """Of a chunk: its layer, its first element, the elements of a chunk, and of the layer."""
    layer = tl.load(layer_of + chunk_number).to(tl.int64)
    n = tl.load(sizes + 4 * layer)
    length = tl.load(sizes + 4 * layer + 1)
    start = (chunk_number - tl.load(sizes + 4 * layer + 2)) * length
    if ALIGNED:
        n = tl.multiple_of(n, 8)
    start = tl.multiple_of(start, 1024)
    return layer, start, length, n


@triton.jit
def _address(pointers, layer, column: tl.constexpr, kind: tl.constexpr, ALIGNED: tl.constexpr):
    address = tl.load(pointers + 4 * layer + column).to(tl.pointer_type(kind))
    if ALIGNED:
        address = tl.multiple_of(address, 16)
    return address


@triton.jit
def _norms(squares, sizes, layer, SUMMED: tl.constexpr, MOST: tl.constexpr):
    """Both norms of a layer, from the sums of its chunks."""
    if SUMMED:
        first = tl.load(squares + 2 * layer)
        second = tl.load(squares + 2 * layer + 1)
    else:
        n = tl.arange(0, MOST)
        at = squares + 2 * (tl.load(sizes + 4 * layer + 2) + n)
        there = n < tl.load(sizes + 4 * layer + 3)
        first = tl.sum(tl.load(at, mask=there, other=0.0))
        second = tl.sum(tl.load(at + 1, mask=there, other=0.0))
    return tl.sqrt(first), tl.sqrt(second)


@triton.jit
def _clip(x, lower, upper):
    """NaN stays NaN."""
    x = tl.where(x < lower, lower, x)
    return tl.where(x > upper, upper, x)


@triton.jit
def total(squares, sizes, totals, MOST: tl.constexpr):
    """Sums of a layer's chunks; one program a layer."""
    layer = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, MOST)
    at = squares + 2 * (tl.load(sizes + 4 * layer + 2) + n)
    there = n < tl.load(sizes + 4 * layer + 3)
    tl.store(totals + 2 * layer, tl.sum(tl.load(at, mask=there, other=0.0)))
    tl.store(totals + 2 * layer + 1, tl.sum(tl.load(at + 1, mask=there, other=0.0)))


@triton.jit(do_not_specialize=["first", "boundary"])
def lamb(
    pointers, numbers, sizes, layer_of, squares, gradient_scale, first, boundary,
    sign, new1, beta2, new2, eps, decay, norm_lower, norm_upper, ratio_lower, ratio_upper,
    W: tl.constexpr, G: tl.constexpr, ADAPT: tl.constexpr, SUMMED: tl.constexpr, ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr, ROUND: tl.constexpr, MOST: tl.constexpr,
):  # fmt: skip
    """Chunks from ``first`` to ``boundary`` in the second pass, backward; those after it in the first."""
    program = tl.program_id(0)
    second_pass = program < boundary - first
    number = tl.where(second_pass, boundary - 1 - program, first + program)
    layer, start, length, n = _layer(layer_of, sizes, number, ALIGNED)
    w_at = _address(pointers, layer, 0, W, ALIGNED)
    g_at = _address(pointers, layer, 1, G, ALIGNED)
    m_at = _address(pointers, layer, 2, tl.float32, ALIGNED)
    v_at = _address(pointers, layer, 3, tl.float32, ALIGNED)
    rate = tl.load(numbers + 3 * layer)
    c1 = tl.load(numbers + 3 * layer + 1).to(tl.float32)
    c2 = tl.load(numbers + 3 * layer + 2).to(tl.float32)
    if second_pass:
        w_norm, u_norm = _norms(squares, sizes, layer, SUMMED, MOST)
        w_norm = _clip(w_norm, norm_lower, norm_upper)
        ratio = _clip(w_norm / u_norm, ratio_lower, ratio_upper)
        rate *= tl.where((w_norm == 0) | (u_norm == 0), 1.0, ratio)
        step = rate.to(tl.float32)
        for at in range(0, length, BLOCK):
            i = start + at + tl.arange(0, BLOCK)
            there = i < n
            w = tl.load(w_at + i, mask=there, other=0.0, eviction_policy="evict_first").to(tl.float32)
            m = tl.load(m_at + i, mask=there, other=0.0, eviction_policy="evict_first")
            v = tl.load(v_at + i, mask=there, other=0.0, eviction_policy="evict_first")
            u = m * c1 / (tl.sqrt_rn(v) * c2 + eps) + decay * w
            tl.store(w_at + i, w - step * u, mask=there)
    else:
        step = rate.to(tl.float32)
        scale = tl.full((), 1.0, tl.float32) * sign
        if gradient_scale is not None:
            scale *= tl.load(gradient_scale).to(tl.float32)
        w_total = tl.zeros((), tl.float64)
        u_total = tl.zeros((), tl.float64)
        for round_at in range(0, length, ROUND):
            w_squares = tl.zeros((BLOCK,), tl.float32)
            u_squares = tl.zeros((BLOCK,), tl.float32)
            for at in range(0, ROUND, BLOCK):
                i = start + round_at + at + tl.arange(0, BLOCK)
                there = i < n
                g = tl.load(g_at + i, mask=there, other=0.0, eviction_policy="evict_first").to(tl.float32) * scale
                w = tl.load(w_at + i, mask=there, other=0.0).to(tl.float32)
                m = tl.load(m_at + i, mask=there, other=0.0)
                v = tl.load(v_at + i, mask=there, other=0.0)
                m += (g - m) * new1
                v = v * beta2 + g * g * new2
                u = m * c1 / (tl.sqrt_rn(v) * c2 + eps) + decay * w
                u = tl.where(there, u, 0.0)  # with eps = 0 what is not there would be 0 / 0
                tl.store(m_at + i, m, mask=there)
                tl.store(v_at + i, v, mask=there)
                if ADAPT:
                    w_squares += w * w
                    u_squares += u * u
                else:
                    tl.store(w_at + i, w - step * u, mask=there)
            w_total += tl.sum(w_squares).to(tl.float64)
            u_total += tl.sum(u_squares).to(tl.float64)
        if ADAPT:
            tl.store(squares + 2 * number, w_total)
            tl.store(squares + 2 * number + 1, u_total)


@triton.jit(do_not_specialize=["first", "boundary"])
def lars(
    pointers, numbers, sizes, layer_of, squares, first, boundary,
    sign, momentum, decay, coefficient, eps,
    W: tl.constexpr, G: tl.constexpr, ADAPT: tl.constexpr, SUMMED: tl.constexpr, ALIGNED: tl.constexpr,
    BLOCK: tl.constexpr, ROUND: tl.constexpr, MOST: tl.constexpr,
    DECAYED: tl.constexpr, CLIP: tl.constexpr, PLACEMENT: tl.constexpr, NESTEROV: tl.constexpr,
):  # fmt: skip
    """As ``lamb``; without a ratio all chunks are in the second pass. PLACEMENT: 0 inside, 1 torch, 2 scaled."""
    program = tl.program_id(0)
    second_pass = program < boundary - first
    number = tl.where(second_pass, boundary - 1 - program, first + program)
    layer, start, length, n = _layer(layer_of, sizes, number, ALIGNED)
    w_at = _address(pointers, layer, 0, W, ALIGNED)
    g_at = _address(pointers, layer, 1, G, ALIGNED)
    v_at = _address(pointers, layer, 2, tl.float32, ALIGNED)
    if second_pass:
        lr = tl.load(numbers + 3 * layer)
        ratio = lr * 0 + 1
        if ADAPT:
            w_norm, g_norm = _norms(squares, sizes, layer, SUMMED, MOST)
            below = g_norm + eps
            if not DECAYED:
                below += decay * w_norm
            ratio = coefficient * w_norm / below
            if CLIP:
                ratio = _clip(ratio / lr, 0.0, 1.0)
            ratio = tl.where((w_norm == 0) | (g_norm == 0), 1.0, ratio)
        inside = (lr * ratio).to(tl.float32)
        outside = tl.full((), 1.0, tl.float32)
        if PLACEMENT == 1:
            inside = ratio.to(tl.float32)
            outside = lr.to(tl.float32)
        if PLACEMENT == 2:
            outside = inside
            inside = tl.full((), 1.0, tl.float32)
        for at in range(0, length, BLOCK):
            i = start + at + tl.arange(0, BLOCK)
            there = i < n
            w = tl.load(w_at + i, mask=there, other=0.0, eviction_policy="evict_first").to(tl.float32)
            g = tl.load(g_at + i, mask=there, other=0.0, eviction_policy="evict_first").to(tl.float32) * sign
            v = tl.load(v_at + i, mask=there, other=0.0, eviction_policy="evict_first")
            d = (g + decay * w) * inside
            v = v * momentum + d
            tl.store(v_at + i, v, mask=there)
            if NESTEROV:
                v = d + momentum * v
            tl.store(w_at + i, w - outside * v, mask=there)
    else:
        w_total = tl.zeros((), tl.float64)
        g_total = tl.zeros((), tl.float64)
        for round_at in range(0, length, ROUND):
            w_squares = tl.zeros((BLOCK,), tl.float32)
            g_squares = tl.zeros((BLOCK,), tl.float32)
            for at in range(0, ROUND, BLOCK):
                i = start + round_at + at + tl.arange(0, BLOCK)
                there = i < n
                w = tl.load(w_at + i, mask=there, other=0.0).to(tl.float32)
                g = tl.load(g_at + i, mask=there, other=0.0).to(tl.float32) * sign
                if DECAYED:
                    g += decay * w
                w_squares += w * w
                g_squares += g * g
            w_total += tl.sum(w_squares).to(tl.float64)
            g_total += tl.sum(g_squares).to(tl.float64)
        tl.store(squares + 2 * number, w_total)
        tl.store(squares + 2 * number + 1, g_total)
