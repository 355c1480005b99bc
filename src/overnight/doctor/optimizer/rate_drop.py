"""How large the step is right after the rate drops tenfold: for LARS it tells where the rate stands in the momentum."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from overnight.doctor.optimizer.length import length
from overnight.doctor.optimizer.outcome import Check, Outcome, within
from overnight.doctor.optimizer.subject import Subject
from overnight.doctor.optimizer.trial import RATE, SHAPE, SLIGHT_DECAY, Trial, generator, of_norm

BEFORE = 6
"""Steps before the drop."""
PLACEMENTS = {"inside": "A", "torch": "B", "scaled": "C"}
TOLERANCE = 0.01


def rate_drop(subject: Subject) -> Outcome:
    """LAMB must follow at once; LARS tells its placement."""
    draws = generator()
    weight = of_norm(4.5, draws)
    gradients = _orthogonal(draws)
    low = RATE[subject.family] / 10
    trial = Trial(subject, [weight], SLIGHT_DECAY)
    for gradient in gradients[:-1]:
        trial.update([gradient])
    trial.set_rate(low)
    update = trial.update([gradients[-1]])[0].norm().item()
    after_rate = update / length(subject, trial.optimizer, weight, gradients[-1], low, 0.0, 1)
    if subject.family == "lamb":
        return within(abs(after_rate - 1), "relative error")
    momentum, nesterov = subject.in_effect("momentum", trial.optimizer), "nesterov" in trial.optimizer.param_groups[0]
    nesterov = nesterov and bool(trial.optimizer.param_groups[0]["nesterov"])
    if nesterov:
        after_rate *= 1 + momentum  # length() counts it in
    if momentum == 0:
        return Outcome("not applicable", "without momentum all placements are one")

    # a gradient that drops tenfold tells the other two apart
    trial = Trial(subject, [weight], SLIGHT_DECAY)
    for gradient in gradients[:-1]:
        trial.update([gradient])
    smaller = gradients[-1] / 10
    update = trial.update([smaller])[0].norm().item()
    after_gradient = update / length(subject, trial.optimizer, weight, smaller, trial.lr, 0.0, 1)
    if nesterov:
        after_gradient *= 1 + momentum
    found = (after_rate, after_gradient)
    words = f"{after_rate:.4g} × lr·ρ·‖g‖ after the rate drops, {after_gradient:.4g} after the gradient does"
    placement = next((name for name in PLACEMENTS if _near(found, responses(name, momentum, nesterov))), None)
    expected = trial.optimizer.param_groups[0].get("momentum_placement")
    words += f": {PLACEMENTS[placement]} ({placement})" if placement else ": none of the three"
    if expected is None:
        return Outcome("information", words)
    return Outcome("pass" if placement == expected else "fail", f"{words}; its own option says {expected}")


def responses(placement: str, momentum: float, nesterov: bool = False) -> tuple[float, float]:
    """The normalised step after the rate and after the gradient drop tenfold, for orthogonal gradients of one norm.

    Args:
        placement: ``inside``: v ← m v + lr·ρ·g. ``torch``: v ← m v + ρ·g, w ← w - lr·v. ``scaled``: v ← m v + g,
            w ← w - lr·ρ·v.
        momentum: m.
        nesterov: step by m v + the newest term.

    >>> [f"{x:.2f}" for x in (*responses("inside", 0.9), *responses("torch", 0.9))]
    ['17.52', '2.01', '2.01', '2.01']
    """
    # how much larger the old terms of the velocity are than the new one, beside their momentum
    old = {"inside": (10.0, 1.0), "torch": (1.0, 1.0), "scaled": (1.0, 10.0)}[placement]
    new = 1 + momentum if nesterov else 1.0
    shift = momentum if nesterov else 1.0
    squares = shift**2 * sum(momentum ** (2 * k) for k in range(1, BEFORE + 1))
    return math.hypot(new, old[0] * math.sqrt(squares)), math.hypot(new, old[1] * math.sqrt(squares))


def _near(found: Sequence[float], expected: Sequence[float]) -> bool:
    return all(abs(a / b - 1) <= TOLERANCE for a, b in zip(found, expected, strict=True))


def _orthogonal(draws: torch.Generator) -> list[Tensor]:
    drawn = torch.randn(SHAPE[0] * SHAPE[1], BEFORE + 1, generator=draws, dtype=torch.float64)
    return [10 * column.view(SHAPE).float() for column in torch.linalg.qr(drawn).Q.T]


RATE_DROP = Check(
    "rate drop",
    {
        "lamb": "right after lr drops tenfold, ‖Δw‖ = lr·‖w‖ with the new lr",
        "lars": f"right after lr drops tenfold, at m = 0.9 after {BEFORE} orthogonal gradients, ‖Δw‖ / (lr·ρ·‖g‖) is "
        "17.5 with the rate inside the velocity (A, the paper's), 2.0 as torch has it (B) or scaled (C)",
    },
    rate_drop,
)
