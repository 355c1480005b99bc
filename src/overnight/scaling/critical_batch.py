"""The critical batch by trying: short runs that branch off a training state, each at its own batch."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from overnight.errors import UserError
from overnight.scaling.convergence import Convergence, fit_convergence

Branch = Callable[[int], Iterator[tuple[float, float]]]
"""(k) → (samples since the fork, held-out loss), again and again, from the same state at k times the batch."""


class Stateful(Protocol):
    """A model, an optimizer, a loader: what can be put back to where it was."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Any) -> Any: ...


@dataclass(frozen=True)
class CriticalBatch:
    """What branched runs say of the critical batch at one point of the training.

    Attributes:
        law: E(B) = Emin (1 + B/Bc) through the samples that the branches needed; ``law.critical_batch`` is the answer.
        target_loss: which all branches had to reach: where the one at the old batch ended.
        samples: that each k needed for it; infinite for those that did not get there in time.
    """

    law: Convergence
    target_loss: float
    samples: dict[int, float]

    @property
    def wasteful(self) -> tuple[int, ...]:
        """Factors whose branch did not reach the target in time: their batch is far past the critical one."""
        return tuple(k for k, needed in self.samples.items() if math.isinf(needed))


def probe_critical_batch(
    branch: Branch,
    *,
    global_batch_size: int,
    samples: float,
    factors: Sequence[int] = (1, 2, 4, 8),
    longest: float = 4.0,
) -> CriticalBatch:
    """Fork, train on at k times the batch and √k times the rate, and compare the samples to the same loss.

    After Merrill et al. 2025 (arXiv 2505.23971), who compare losses after the same tokens; samples to the same loss are
    what E(B) is about. An arbiter for the noise scale, at the price of Σ over k of up to ``longest`` · samples.

    Args:
        branch: starts the run of factor k; see ``branches`` for a torch loop.
        global_batch_size: B before the fork.
        samples: horizon of the branch at B, long enough for its loss to fall by more than the noise of an evaluation.
        factors: k of the branches, rising from 1.
        longest: other branches may take so many times the samples.

    Raises:
        UserError: if the branch at the old batch does not lower the loss, so that there is nothing to compare.
        ValueError: for settings that cannot be.

    >>> def branch(k):      # a made-up law with Bc = 1000
    ...     return ((s, math.exp(-s / (1 + 100 * k / 1000) / 1e4)) for s in range(0, 10**6, 800))
    >>> round(probe_critical_batch(branch, global_batch_size=100, samples=8000).law.critical_batch, -1)
    1000.0
    """
    if len(factors) < 2 or factors[0] != 1 or list(factors) != sorted(set(factors)):
        raise ValueError(f"factors must rise from 1, not {tuple(factors)!r}.")
    if not (samples > 0 and longest >= 1):
        raise ValueError(f"samples must be above 0 and longest at least 1, not {samples!r} and {longest!r}.")
    curve = list(_until(branch(1), samples))
    target = curve[-1][1] if curve else math.nan
    if len(curve) < 2 or not target < curve[0][1]:
        raise UserError(
            f"The run that branched off at batch {global_batch_size} did not lower its loss within {samples:,.0f} "
            "samples, so the critical batch cannot be told.",
            "Give it a longer horizon, or a rate at which it still learns.",
        )
    needed = {1: float(curve[-1][0])}
    for k in factors[1:]:
        needed[k] = _samples_to(branch(k), target, longest * curve[-1][0])
    reached = {k: value for k, value in needed.items() if math.isfinite(value)}
    if len(reached) < 2:
        raise UserError(
            f"No branch reached the loss of batch {global_batch_size} within {longest:g} times its samples.",
            "The batch is past the critical one already: fork with a smaller batch.",
        )
    law = fit_convergence([k * global_batch_size for k in reached], list(reached.values()))
    return CriticalBatch(law, target, needed)


class Fork:
    """Copies of training states and of torch's random numbers, to start branches from and to come back to.

    Args:
        parts: models, optimizers, loaders.

    >>> model = torch.nn.Linear(2, 1)
    >>> fork = Fork(model)
    >>> before = model.weight.detach().clone()
    >>> _ = model.weight.data.zero_()
    >>> fork.restore()
    >>> bool((model.weight == before).all())
    True
    """

    def __init__(self, *parts: Stateful) -> None:
        self._kept = [(part, copy.deepcopy(part.state_dict())) for part in parts]
        self._random = torch.get_rng_state()
        self._device_random = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def restore(self) -> None:
        """Put everything back."""
        for part, state in self._kept:
            part.load_state_dict(copy.deepcopy(state))
        torch.set_rng_state(self._random)
        if self._device_random:
            torch.cuda.set_rng_state_all(self._device_random)


def branches(
    fork: Fork,
    optimizer: torch.optim.Optimizer,
    step: Callable[[int, float], object],
    evaluate: Callable[[], float],
    *,
    global_batch_size: int,
    evaluate_every: float,
    lr_factor: Callable[[int], float] = math.sqrt,
) -> Branch:
    """``probe_critical_batch``'s branches, for a torch loop.

    Each begins with the fork's state and every group's rate times √k, and ends with the fork's state put back. What is
    found is the critical batch under that rule for the rate: √k costs samples of its own where there is no noise.

    Args:
        fork: of the model, the optimizer and whatever else a step changes.
        optimizer: whose rates are scaled.
        step: (samples, samples since the fork) → trains one update on that many samples. Data by position, so that
            every branch reads the same.
        evaluate: the held-out loss, of the same data every time.
        global_batch_size: B at the fork.
        evaluate_every: samples from one evaluation to the next.
        lr_factor: k → factor on the rate.
    """

    def branch(k: int) -> Iterator[tuple[float, float]]:
        fork.restore()
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * lr_factor(k)
        try:
            seen, due = 0.0, evaluate_every
            yield seen, evaluate()
            while True:
                step(k * global_batch_size, seen)
                seen += k * global_batch_size
                if seen >= due:
                    due = seen + evaluate_every
                    yield seen, evaluate()
        finally:
            fork.restore()

    return branch


def _until(curve: Iterator[tuple[float, float]], samples: float) -> Iterator[tuple[float, float]]:
    for seen, loss in curve:
        yield seen, loss
        if seen >= samples:
            break
    _end(curve)


def _samples_to(curve: Iterator[tuple[float, float]], target: float, most: float) -> float:
    """Where the loss crosses the target, on the line between two evaluations; infinite if it does not in time."""
    before: tuple[float, float] | None = None
    found = math.inf
    for seen, loss in curve:
        if loss <= target:
            if before is None or before[1] <= loss:
                found = float(seen)
            else:
                found = before[0] + (seen - before[0]) * (before[1] - target) / (before[1] - loss)
            break
        if seen >= most or not math.isfinite(loss):
            break
        before = seen, loss
    _end(curve)
    return found


def _end(curve: Iterator[tuple[float, float]]) -> None:
    """A generator puts its state back when it is closed, not when it is forgotten."""
    close = getattr(curve, "close", None)
    if close is not None:
        close()
