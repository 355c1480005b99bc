"""What a step must leave alone: gradients always; everything when a scaler has found an infinity."""

import copy
import math
from typing import Any

import torch
from torch import Tensor

from overnight.doctor.optimizer.modes import modes
from overnight.doctor.optimizer.outcome import Check, Outcome
from overnight.doctor.optimizer.subject import Subject
from overnight.doctor.optimizer.trial import Trial, difference, generator, of_norm

SCALE = 2.0**10


def gradients_kept(subject: Subject) -> Outcome:
    """In every mode, with gradients so large that a hidden clip would act."""
    ways = modes(subject)
    if subject.takes("maximize"):
        ways["maximize"] = {"maximize": True}
    changes: dict[str, float] = {}
    for name, settings in {"as built": {}, **ways}.items():
        draws = generator()
        weight, gradient = of_norm(4.5, draws), of_norm(50.0, draws)
        trial = Trial(subject, [weight], 0.01, **settings)
        try:
            for _ in range(2):
                trial.update([gradient])
        except (RuntimeError, ValueError, NotImplementedError, AssertionError):
            if name in ("as built", "loop"):
                raise
            continue  # this mode is not for this machine, which is said elsewhere
        kept = trial.parameters[0].grad
        if kept is None or not torch.equal(kept, gradient):
            changes[name] = math.nan if kept is None else difference([kept.double()], [gradient.double()])
        else:
            changes[name] = 0.0
    if not any(changes.values()):
        return Outcome("pass", f"bit for bit ({', '.join(changes)})", 0.0)
    words = [f"{name}: by {change:.2g} of its norm" for name, change in changes.items() if change]
    return Outcome("fail", f"it is changed ({'; '.join(words)})", max(changes.values()))


def skipped_step(subject: Subject) -> Outcome:
    """Three steps under a scaler, the second with an infinite gradient; then the first and third alone."""
    skipping, losses = _scaled_run(subject, [False, True, False])
    never, _ = _scaled_run(subject, [False, False])
    if losses:
        return Outcome("fail", f"the skipped step changes {' and '.join(losses)}")
    if not all(torch.equal(a, b) for a, b in zip(skipping, never, strict=True)):
        error = difference([w.double() for w in skipping], [w.double() for w in never])
        return Outcome("fail", f"the step after it differs: weights by {error:.1e}", error)
    return Outcome("pass", "weights, state and the next step are bit for bit the same")


def _scaled_run(subject: Subject, overflows: list[bool]) -> tuple[list[Tensor], list[str]]:
    """The weights at the end, and what changed in a step that should be skipped."""
    draws = generator()
    trial = Trial(subject, [of_norm(4.5, draws), of_norm(4.5, draws)], 0.01)
    gradients = [[of_norm(3.0, draws) for _ in trial.parameters] for _ in range(2)]
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    finite = iter(gradients)
    changed: list[str] = []
    for overflow in overflows:
        trial.optimizer.zero_grad()
        given = gradients[0] if overflow else next(finite)
        loss = torch.stack([(p * g).sum() for p, g in zip(trial.parameters, given, strict=True)]).sum()
        scaler.scale(loss).backward()
        before = copy.deepcopy((trial.parameters, trial.optimizer.state_dict()))
        if overflow:
            gradient = trial.parameters[1].grad
            assert gradient is not None
            gradient[0, 0] = torch.inf
        scaler.step(trial.optimizer)
        scaler.update()
        if overflow:
            if not same([p.detach() for p in before[0]], [p.detach() for p in trial.parameters]):
                changed.append("weights")
            if not same(before[1], trial.optimizer.state_dict()):
                changed.append("state")
    return [p.detach() for p in trial.parameters], changed


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal, bit for bit.

    >>> same({"step": torch.ones(1), "betas": (0.9, 0.99)}, {"step": torch.ones(1), "betas": (0.9, 0.99)})
    True
    """
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, (list, tuple)) and len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


GRADIENT = Check("gradient", dict.fromkeys(("lamb", "lars"), "p.grad is what it was before the step"), gradients_kept)
SKIPPED = Check(
    "skipped step",
    dict.fromkeys(("lamb", "lars"), "torch.amp.GradScaler finds an infinite gradient: weights, state and step count"),
    skipped_step,
)
