"""LARS and its relatives in float64 NumPy, each from its own publication, sharing no code with the package.

A rule takes one layer: ``rule(w, g, s, t, lr, decay, adapt)`` → new w. ``s`` keeps the velocity between steps, t (which
no rule needs) counts from 1, ``adapt`` is False for a layer that the exclude list names. m = 0.9, η = 0.02.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
State = dict[str, Any]
MOMENTUM, ETA = 0.9, 0.02


def norm(x: Array) -> float:
    return float(np.sqrt(np.sum(x * x)))


def local_rate(w: Array, g: Array, decay: float, adapt: bool) -> float:
    """You et al. 2017 (1708.03888), eq. 6; 1 for excluded layers and where a norm is zero."""
    if not adapt or norm(w) == 0 or norm(g) == 0:
        return 1.0
    return ETA * norm(w) / (norm(g) + decay * norm(w))


def paper(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    """Algorithm 1, as in Caffe; the same as MLPerf's TensorFlow reference ("unscaled")."""
    rate = local_rate(w, g, decay, adapt)
    s["v"] = MOMENTUM * s.get("v", 0.0) + lr * rate * (g + decay * w)
    return w - s["v"]


def paper_nesterov(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    """MLPerf's TensorFlow reference with use_nesterov: the newest term counts once more."""
    scaled = lr * local_rate(w, g, decay, adapt) * (g + decay * w)
    s["v"] = MOMENTUM * s.get("v", 0.0) + scaled
    return w - (MOMENTUM * s["v"] + scaled)


def torch_placement(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    """timm, lightning-bolts: torch.optim.SGD on gradients that were multiplied by the local rate."""
    s["buf"] = MOMENTUM * s.get("buf", 0.0) + local_rate(w, g, decay, adapt) * (g + decay * w)
    return w - lr * s["buf"]


def torch_nesterov(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    d = local_rate(w, g, decay, adapt) * (g + decay * w)
    s["buf"] = MOMENTUM * s.get("buf", 0.0) + d
    return w - lr * (d + MOMENTUM * s["buf"])


def scaled_placement(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    """NUS-HPC-AI-Lab's LARS-ImageNet-PyTorch, without its clamps: the local rate multiplies the velocity."""
    s["v"] = MOMENTUM * s.get("v", 0.0) + (g + decay * w)
    return w - lr * local_rate(w, g, decay, adapt) * s["v"]


def scaled_nesterov(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    d = g + decay * w
    s["v"] = MOMENTUM * s.get("v", 0.0) + d
    return w - lr * local_rate(w, g, decay, adapt) * (d + MOMENTUM * s["v"])


def larc(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    """apex LARC(SGD, clip=True): the wrapped SGD sees no decay, and a gradient times min(ρ / lr, 1)."""
    return _apex(w, g, s, lr, decay, adapt, clip=True)


def larc_unclipped(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    """apex LARC(SGD, clip=False)."""
    return _apex(w, g, s, lr, decay, adapt, clip=False)


def _apex(w: Array, g: Array, s: State, lr: float, decay: float, adapt: bool, clip: bool) -> Array:
    if not adapt:  # LARC has no exclude list: such layers belong to an optimizer that is not wrapped
        g = g + decay * w
    elif norm(w) != 0 and norm(g) != 0:
        adaptive_lr = ETA * norm(w) / (norm(g) + norm(w) * decay + 1e-8)
        if clip:
            adaptive_lr = min(adaptive_lr / lr, 1.0)
        g = (g + decay * w) * adaptive_lr
    s["buf"] = MOMENTUM * s.get("buf", 0.0) + g
    return w - lr * s["buf"]


def optax(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    """optax.lars = chain(add_decayed_weights, scale_by_trust_ratio, scale_by_learning_rate, trace)."""
    updates = g + decay * w
    if adapt and norm(w) > 0 and norm(updates) > 0:
        updates = updates * (ETA * norm(w) / (norm(updates) + 0.0))
    updates = -lr * updates
    s["trace"] = updates + MOMENTUM * s.get("trace", 0.0)
    return w + s["trace"]


def vissl(w: Array, g: Array, s: State, t: int, lr: float, decay: float, adapt: bool) -> Array:
    """VISSL's and Barlow Twins' LARS: decay before the ratio, velocity as torch has it."""
    dp = g + decay * w
    q = ETA * norm(w) / norm(dp) if adapt and norm(w) > 0 and norm(dp) > 0 else 1.0
    s["mu"] = MOMENTUM * s.get("mu", 0.0) + q * dp
    return w - lr * s["mu"]
