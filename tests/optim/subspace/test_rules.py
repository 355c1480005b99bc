"""What each rule does, on quadratics in float64, beside oracles that share no code with it."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from optim.subspace.cases import Quadratic
from oracles.subspace import anderson, conjugate_gradients, exponential, lookahead

from overnight.optim import SEBoost
from overnight.optim.subspace import EMA, LAWA, SWA, Anderson, Fixed, GaussNewton, NonlinearCG

EXACT = {
    "Gauss-Newton": GaussNewton(damping=0.0),
    "differences": GaussNewton(damping=0.0, products="differences"),
    "CG": NonlinearCG(max_evaluations=60, sigma=0.01, rho=1e-6, tolerance=1e-14),
}


def run(optimizer: SEBoost, problem: Quadratic, steps: int, see: Callable[[], Any]) -> list[Any]:
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        problem.loss().backward()
        optimizer.step()
        found.append(see())
    return found


def searching(problem: Quadratic, rule: Any, **settings: Any) -> SEBoost:
    base = torch.optim.SGD(problem.parameters(), lr=0.01)
    given: dict[str, Any] = {"loss": problem.loss}
    if rule.needs_outputs:
        given = {"loss": lambda outputs, _: outputs.square().sum() / 2, "outputs": problem.outputs}
    return SEBoost(base, rule, model=problem, batches=lambda number: number, every=1, **given | settings)


@pytest.mark.parametrize("settings", [{"history": 2}, {"history": 2, "orthonormal": True}, {"history": 5}], ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_a_quadratic_is_solved_as_by_conjugate_gradients(name: str, settings: dict[str, Any]) -> None:
    problem = Quadratic()
    n = len(problem.start)
    expected = conjugate_gradients(problem.a, problem.b, problem.start, n)
    optimizer = searching(problem, EXACT[name], accept=False, **settings)
    found = run(optimizer, problem, n, problem.numpy)
    solution = np.linalg.solve(problem.a, problem.b)
    start = np.linalg.norm(problem.start - solution)
    for ours, theirs in zip(found, expected, strict=True):
        assert np.linalg.norm(ours - theirs) <= 1e-6 * start
    assert np.linalg.norm(found[-1] - solution) <= 1e-6 * start
    assert np.linalg.norm(found[-2] - solution) >= 1e-3 * start  # n steps, not fewer


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("pullback", [False, True])
def test_fixed_half_with_one_displacement_is_lookahead(momentum: float, pullback: bool) -> None:
    problem = Quadratic()
    base = torch.optim.SGD(problem.parameters(), lr=0.03, momentum=momentum)
    keep = "pullback" if pullback else "keep"
    optimizer = SEBoost(base, Fixed(0.5), every=5, history=1, base_momentum=keep)
    found = run(optimizer, problem, 23, problem.numpy)
    expected = lookahead(problem.start, problem.gradient, 0.03, momentum, 5, 0.5, 23, pullback)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-13)
    assert np.abs(found[4] - problem.start).max() > 0.01


def outer_points(problem: Quadratic, steps: int, every: int) -> list[Any]:
    w, points = problem.start, []
    for step in range(1, steps + 1):
        w = w - 0.03 * problem.gradient(w)
        if step % every == 0:
            points.append(w)
    return points


AVERAGES: dict[str, tuple[Any, Callable[[list[Any], Any], Any]]] = {
    "EMA": (EMA(0.7), lambda points, start: exponential(points, start, 0.7)),
    "SWA": (SWA(), lambda points, start: np.mean(points, axis=0)),
    "SWA later": (SWA(skip=3), lambda points, start: np.mean(points[3:] or points[-1:], axis=0)),
    "LAWA": (LAWA(4), lambda points, start: np.mean([start, *points][-4:], axis=0)),
}


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_are_those_of_the_outer_points(name: str) -> None:
    rule, average = AVERAGES[name]
    problem = Quadratic()
    optimizer = SEBoost(torch.optim.SGD(problem.parameters(), lr=0.03), rule, every=2, history=3, jump=False)

    def see() -> tuple[Any, Any]:
        with optimizer.boosted():
            inside = problem.numpy()
        return problem.numpy(), inside

    found = run(optimizer, problem, 14, see)
    points = outer_points(problem, 14, 2)
    for outer in range(1, 8):
        fast, slow = found[2 * outer - 1]
        np.testing.assert_allclose(fast, points[outer - 1], rtol=0, atol=1e-13)  # training does not notice
        np.testing.assert_allclose(slow, average(points[:outer], problem.start), rtol=0, atol=1e-13)
        assert np.abs(slow - fast).max() > 1e-6 or outer == 1 or (name == "SWA later" and outer <= 4)


def test_an_average_that_jumps_is_lookahead() -> None:
    problem = Quadratic()
    optimizer = SEBoost(torch.optim.SGD(problem.parameters(), lr=0.03), EMA(0.5), every=5, history=1)
    found = run(optimizer, problem, 20, problem.numpy)
    np.testing.assert_allclose(found, lookahead(problem.start, problem.gradient, 0.03, 0.0, 5, 0.5, 20), atol=1e-13)


@pytest.mark.parametrize("mixing", [1.0, 0.5])
@pytest.mark.parametrize("every", [1, 3])
def test_anderson(mixing: float, every: int) -> None:
    problem = Quadratic()

    def mapping(w: Any) -> Any:
        for _ in range(every):
            w = w - 0.03 * problem.gradient(w)
        return w

    base = torch.optim.SGD(problem.parameters(), lr=0.03)
    optimizer = SEBoost(base, Anderson(mixing, ridge=0.0), every=every, history=4)
    found = run(optimizer, problem, 6 * every, problem.numpy)[every - 1 :: every]
    expected = anderson(mapping, problem.start, 4, mixing, 6)
    solution = np.linalg.solve(problem.a, problem.b)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7 * np.abs(problem.start - solution).max())


def test_anderson_ends_in_n_steps() -> None:
    problem = Quadratic(5)
    optimizer = SEBoost(torch.optim.SGD(problem.parameters(), lr=0.05), Anderson(ridge=0.0), every=1, history=6)
    found = run(optimizer, problem, 6, problem.numpy)
    errors = [np.linalg.norm(w - np.linalg.solve(problem.a, problem.b)) for w in found]
    assert errors[-1] <= 1e-5 * errors[0]


def test_anchors_and_momentum_are_the_directions_that_they_say() -> None:
    problem = Quadratic()
    optimizer = searching(problem, NonlinearCG(), history=2, anchors=(1, 3), momentum_column=0.5, accept=False)
    points = [problem.start]

    def see() -> Any:
        rows = [torch.cat([s.rows[row] for s in optimizer.buffer.stored]).numpy().copy() for row in range(5)]
        points.append(problem.numpy())
        return rows

    found = run(optimizer, problem, 7, see)
    whole = np.diff(points, axis=0)
    for outer in range(1, 8):
        _, _, each, third, momentum = found[outer - 1]
        np.testing.assert_allclose(each, whole[outer - 1], atol=1e-12)
        anchor = (outer - 1) // 3 * 3
        np.testing.assert_allclose(third, points[outer] - points[anchor], atol=1e-12)
        expected = sum(0.5 ** (outer - 2 - k) * whole[k] for k in range(outer - 1))
        np.testing.assert_allclose(momentum, expected, atol=1e-12)


@pytest.mark.parametrize("name", EXACT)
def test_the_ridge_shortens_the_jump(name: str) -> None:
    lengths = []
    for ridge in (0.0, 1.0, 1e6):
        problem = Quadratic()
        optimizer = searching(problem, EXACT[name], history=1, ridge=ridge, accept=False)
        run(optimizer, problem, 1, problem.numpy)
        assert optimizer.last is not None
        lengths.append(abs(optimizer.last.coefficients[0]))
    slope = lengths[0]
    assert lengths[0] > lengths[1] > lengths[2] > 0
    assert lengths[2] < 1e-4 * slope
