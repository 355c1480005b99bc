"""The ways in which a class can make the same update must make the same update."""

from typing import Any

import torch
from torch import Tensor

from overnight.doctor.optimizer.outcome import Check, Outcome, within
from overnight.doctor.optimizer.subject import Subject
from overnight.doctor.optimizer.trial import Trial, difference, generator, of_norm

SHAPES = ((63, 5), (101,), (7, 3, 2), (1,), (33, 65))
STEPS = 10


def modes(subject: Subject) -> dict[str, dict[str, Any]]:
    """Arguments by the name of the mode; the first is what the others are compared with."""
    plain = {name: False for name in ("foreach", "fused", "capturable") if subject.takes(name)}
    return {"loop": plain, **{name: {**plain, name: True} for name in plain}}


def same_update(subject: Subject) -> Outcome:
    """On the CPU, and on CUDA where it is."""
    names = list(modes(subject))[1:]
    if not names:
        return Outcome("not applicable", "it has no argument foreach, fused or capturable")
    errors: dict[str, float] = {}
    refused: list[str] = []
    for device in ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]:
        loop = _updates(subject, device, "loop")
        for name in names:
            label = name if device == "cpu" else f"{name} on {device}"
            try:
                found = _updates(subject, device, name)
            except (RuntimeError, ValueError, NotImplementedError, AssertionError) as error:
                refused.append(f"{label} is refused ({type(error).__name__})")
                continue
            errors[label] = max(difference(a, b) for a, b in zip(found, loop, strict=True))
    if not errors:
        return Outcome("not applicable", "; ".join(refused))
    worst = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else float("inf"))
    names_found = ", ".join(errors)
    words = f"loop = {names_found}" if len(errors) == 1 else f"loop and {names_found} (worst: {worst})"
    found_outcome = within(errors[worst], f"{words}: largest relative difference of an update")
    measured = "; ".join([found_outcome.measured, *refused])
    return Outcome(found_outcome.status, measured, found_outcome.error)


def _updates(subject: Subject, device: str, mode: str) -> list[list[Tensor]]:
    draws = generator()
    weights = [of_norm(4.5, draws, shape).to(device) for shape in SHAPES]
    weights.append(of_norm(4.5, draws, (12, 20)).t().to(device))  # rows are not contiguous
    trial = Trial(subject, weights, 0.01, **modes(subject)[mode])
    return [trial.update([of_norm(3.0, draws, tuple(w.shape)).to(device) for w in weights]) for _ in range(STEPS)]


RULE = "loop = foreach = fused = capturable, in every update Δw"
MODES = Check("modes", {"lamb": RULE, "lars": RULE}, same_update)
