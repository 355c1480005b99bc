"""Trajectories of an optimizer and of an oracle over the same layers, and proof of the path that was taken."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch

from overnight.optim import LAMB, LARS, fused_cpu, lamb, lars

Array = npt.NDArray[np.float64]
Trajectory = list[list[Array]]
"""Of each step, all weights after it; the first entry is before the first step."""
PATHS: dict[str, dict[str, Any]] = {
    "loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
    "capturable_loop": {"capturable": True, "foreach": False},
    "capturable_foreach": {"capturable": True, "foreach": True},
}
FUNCTIONS = {
    "loop": [(lamb, "loop"), (lars, "loop")],
    "foreach": [(lamb, "foreach"), (lars, "foreach")],
    "fused": [(fused_cpu, "lamb"), (fused_cpu, "lars")],
}


def watch(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the paths that run from now on."""
    ran: set[str] = set()

    def wrap(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            ran.add(name)
            return function(*args, **kwargs)

        return wrapped

    for name, places in FUNCTIONS.items():
        for module, attribute in places:
            monkeypatch.setattr(module, attribute, wrap(name, getattr(module, attribute)))
    return ran


def expected(path: str) -> set[str]:
    return {path.removeprefix("capturable_")}


class Problem(NamedTuple):
    """Weights, gradients of every step, and which layers are excluded from adaptation and decay."""

    weights: list[Array]
    gradients: list[list[Array]]
    excluded: list[bool]


def problem(layers: Sequence[tuple[tuple[int, ...], float, float, bool]], steps: int) -> Problem:
    """Numbers that float32 holds exactly.

    Args:
        layers: shape, scale of the weights, scale of the gradients, excluded.
        steps: how many gradients.
    """
    rng = np.random.default_rng(sum(len(shape) for shape, *_ in layers) + steps)

    def draw(shape: tuple[int, ...], scale: float) -> Array:
        return np.float64(np.float32(scale * rng.standard_normal(shape)))

    weights = [draw(shape, scale) for shape, scale, _, _ in layers]
    drift = [draw(shape, 0.5 * scale) for shape, _, scale, _ in layers]
    gradients = [
        [
            np.float64(np.float32(mean + draw(shape, scale)))
            for mean, (shape, _, scale, _) in zip(drift, layers, strict=True)
        ]
        for _ in range(steps)
    ]
    return Problem(weights, gradients, [excluded for *_, excluded in layers])


def of_oracle(
    rule: Callable[..., Array],
    before: Callable[[list[Array]], list[Array]] | None,
    given: Problem,
    rates: Sequence[float],
    decay: float,
) -> Trajectory:
    ws, states = given.weights, [{} for _ in given.weights]  # type: ignore[var-annotated]
    found = [ws]
    for t, (gs, lr) in enumerate(zip(given.gradients, rates, strict=True), 1):
        seen = before(gs) if before else gs
        ws = [
            rule(w, g, s, t, lr, 0.0 if excluded else decay, not excluded)
            for w, g, s, excluded in zip(ws, seen, states, given.excluded, strict=True)
        ]
        found.append(ws)
    return found


def of_optimizer(
    kind: type[LAMB] | type[LARS],
    given: Problem,
    rates: Sequence[float],
    decay: float,
    dtype: torch.dtype,
    **options: Any,
) -> Trajectory:
    """Layers in three groups: every other adapted one, the rest of those, and the excluded ones."""
    parameters = [torch.nn.Parameter(torch.tensor(w, dtype=dtype)) for w in given.weights]
    adapted = [p for p, excluded in zip(parameters, given.excluded, strict=True) if not excluded]
    others = [p for p, excluded in zip(parameters, given.excluded, strict=True) if excluded]
    groups = [{"params": adapted[::2]}, {"params": adapted[1::2]}]
    groups += [{"params": others, "weight_decay": 0.0, "adapt": False}] if others else []
    optimizer = kind([group for group in groups if group["params"]], lr=rates[0], weight_decay=decay, **options)
    found = [given.weights]
    for gs, lr in zip(given.gradients, rates, strict=True):
        for p, g in zip(parameters, gs, strict=True):
            p.grad = torch.tensor(g, dtype=dtype)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        found.append([p.detach().double().numpy().copy() for p in parameters])
    return found


def check(found: Trajectory, wanted: Trajectory, tolerance: float, rounding: float = 0.0) -> None:
    """Compare the update of each layer at each step, in norms.

    Args:
        found, wanted: trajectories.
        tolerance: relative error of an update.
        rounding: of a stored weight, relative; an update cannot be known better than that.
    """
    for step in range(1, len(wanted)):
        for layer, (a, b) in enumerate(zip(found[step], wanted[step], strict=True)):
            moved, should = a - found[step - 1][layer], b - wanted[step - 1][layer]
            error, limit = np.linalg.norm(moved - should), np.linalg.norm(should)
            allowed = tolerance * limit + rounding * np.linalg.norm(b)
            assert error <= allowed, f"step {step}, layer {layer}: {error / limit:.2e} of the update"
