"""LAMB and its relatives in float64 NumPy, each from its own publication, sharing no code with the package.

A rule takes one layer: ``rule(w, g, s, t, lr, decay, adapt)`` → new w. ``s`` keeps m and v between steps, t counts from
1, ``adapt`` is False for a layer that the publication's exclude list names. β₁ = 0.9, β₂ = 0.999, ε = 1e-6.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
State = dict[str, Any]
BETA1, BETA2, EPS = 0.9, 0.999, 1e-6


def norm(x: Array) -> float:
    return float(np.sqrt(np.sum(x * x)))


def moments(g: Array, s: State) -> tuple[Array, Array]:
    s["m"] = BETA1 * s.get("m", 0.0) + (1 - BETA1) * g
    s["v"] = BETA2 * s.get("v", 0.0) + (1 - BETA2) * g**2
    return s["m"], s["v"]


def ratio(w: Array, u: Array) -> float:
    return norm(w) / norm(u) if norm(w) > 0 and norm(u) > 0 else 1.0


def paper(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    """You et al. 2020 (1904.00962v5), Algorithm 2, φ(z) = z."""
    m, v = moments(g, s)
    m_hat, v_hat = m / (1 - BETA1**t), v / (1 - BETA2**t)
    u = m_hat / (np.sqrt(v_hat) + EPS) + decay * w
    phi = ratio(w, u) if adapt else 1.0
    return w - lr * phi * u


def author(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    """The first author's TensorFlow code of 2019: no bias correction, which v5's appendix allows too."""
    m, v = moments(g, s)
    update = m / (np.sqrt(v) + EPS)
    if not adapt:
        return w - lr * update
    update += decay * w
    return w - lr * ratio(w, update) * update


def lambc(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    """LAMB whose trust ratio is clipped at 1 from above."""
    m, v = moments(g, s)
    r = (m / (1 - BETA1**t)) / (np.sqrt(v / (1 - BETA2**t)) + EPS)
    update = r + decay * w
    return w - lr * (min(ratio(w, update), 1.0) if adapt else 1.0) * update


def nvlamb(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    """apex FusedLAMB in its AdamW mode with gradient averaging, on gradients that ``clip_globally`` has seen."""
    m, v = moments(g, s)
    m_unbiased, v_unbiased = m / (1 - BETA1**t), v / (1 - BETA2**t)
    update = m_unbiased / (np.sqrt(v_unbiased) + EPS) + decay * w
    rate = lr
    if adapt and norm(w) != 0.0 and norm(update) != 0.0:  # adapt: use_nvlamb, or a decay that is not 0
        rate = lr * (norm(w) / norm(update))
    return w - rate * update


def clip_globally(gs: Sequence[Array], limit: float = 1.0) -> list[Array]:
    """apex since PR 819, and MLPerf: one norm over the gradients of all parameter groups."""
    total = np.sqrt(sum(np.sum(g * g) for g in gs))
    return [g / (total / limit) if total > limit else g for g in gs]


def mlperf(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    """MLPerf's TensorFlow BERT, on gradients that ``clip_globally`` has seen; one list excludes from both."""
    next_m, next_v = moments(g, s)
    beta1_correction, beta2_correction = 1 - BETA1**t, 1 - BETA2**t
    update = (next_m / beta1_correction) / (np.sqrt(next_v / beta2_correction) + EPS)
    trust = 1.0
    if adapt:
        update = update + decay * w
        trust = np.where(norm(w) > 0, np.where(norm(update) > 0, norm(w) / norm(update), 1.0), 1.0)
    return w - trust * lr * update


def lans(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    """Zheng et al. 2020 (2006.13484), Algorithm 2: a gradient of norm 1, and Nesterov's two parts of norm 1."""
    g = g / norm(g)
    m, v = moments(g, s)
    below = np.sqrt(v / (1 - BETA2**t)) + EPS
    r = m / (1 - BETA1**t) / below + decay * w
    c = g / below + decay * w
    if not adapt:
        return w - lr * (BETA1 * r + (1 - BETA1) * c)
    return w - lr * norm(w) * (BETA1 * r / norm(r) + (1 - BETA1) * c / norm(c))


def deepspeed(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    """DeepSpeed FusedLamb: the coefficient is kept in [0.01, 10], bias correction comes after it, in the step size."""
    m, v = moments(g, s)
    update = m / (np.sqrt(v) + EPS) + decay * w
    coefficient = min(max(ratio(w, update), 0.01), 10.0) if adapt else 1.0
    step_size = lr * np.sqrt(1 - BETA2**t) / (1 - BETA1**t)
    return w - step_size * coefficient * update


def optax(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    """optax.lamb = chain(scale_by_adam, add_decayed_weights, scale_by_trust_ratio, scale_by_learning_rate)."""
    mu, nu = moments(g, s)
    updates = mu / (1 - BETA1**t) / (np.sqrt(nu / (1 - BETA2**t) + 0.0) + EPS)
    updates = updates + decay * w
    if adapt:
        zero = norm(w) == 0.0 or norm(updates) == 0.0
        updates = updates * (1.0 if zero else norm(w) / (norm(updates) + 0.0))
    return w + -lr * updates
