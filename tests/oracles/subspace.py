"""Lookahead, conjugate gradients, averages and Anderson acceleration in float64 NumPy, from their publications."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def lookahead(
    w: Array,
    gradient: Callable[[Array], Array],
    lr: float,
    momentum: float,
    every: int,
    alpha: float,
    steps: int,
    pullback: bool = False,
) -> list[Array]:
    """Zhang et al. 2019, Algorithm 1, around heavy-ball momentum: fast weights after every step.

    ``pullback``: the velocity is interpolated as the weights are, from 0 at the start (the authors' code).
    """  # fmt: skip
    slow, fast, velocity, slow_velocity = w.copy(), w.copy(), np.zeros_like(w), np.zeros_like(w)
    found = []
    for step in range(1, steps + 1):
        velocity = momentum * velocity + gradient(fast)
        fast = fast - lr * velocity
        if step % every == 0:
            slow = slow + alpha * (fast - slow)
            fast = slow.copy()
            if pullback:
                velocity = alpha * velocity + (1 - alpha) * slow_velocity
                slow_velocity = velocity.copy()
        found.append(fast.copy())
    return found


def conjugate_gradients(a: Array, b: Array, x: Array, steps: int) -> list[Array]:
    """Hestenes and Stiefel 1952, for ½ xᵀ A x - bᵀ x: the iterates after the start."""
    residual = b - a @ x
    direction = residual.copy()
    found = []
    for _ in range(steps):
        along = a @ direction
        length = (residual @ residual) / (direction @ along)
        x = x + length * direction
        new = residual - length * along
        direction = new + (new @ new) / (residual @ residual) * direction
        residual = new
        found.append(x.copy())
    return found


def anderson(mapping: Callable[[Array], Array], x: Array, memory: int, mixing: float, steps: int) -> list[Array]:
    """Walker and Ni 2011, Algorithm AA in its unconstrained form: iterates after the start, of x ← mapping(x)."""
    points, residuals, found = [x], [mapping(x) - x], []
    for _ in range(steps):
        back = range(max(0, len(points) - memory), len(points) - 1)
        new = points[-1] + mixing * residuals[-1]
        if len(back):
            moved = np.stack([points[i + 1] - points[i] for i in back], 1)
            changed = np.stack([residuals[i + 1] - residuals[i] for i in back], 1)
            gamma = np.linalg.lstsq(changed, residuals[-1], rcond=None)[0]
            new = new - (moved + mixing * changed) @ gamma
        points.append(new)
        residuals.append(mapping(new) - new)
        found.append(new.copy())
    return found


def exponential(points: Sequence[Array], start: Array, decay: float) -> Array:
    """decay · A + (1 - decay) · x, over the points in turn."""
    average = start
    for x in points:
        average = decay * average + (1 - decay) * x
    return average
