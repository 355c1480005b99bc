"""The identity that defines the family: how long an update is, whatever the gradient."""

import math

import torch
from torch import Tensor
from torch.optim import Optimizer

from overnight.doctor.optimizer.outcome import TOLERANCE, Check, Outcome, factor
from overnight.doctor.optimizer.subject import Subject
from overnight.doctor.optimizer.trial import Trial, generator, of_norm

STEPS = (1, 10, 100, 1000)
NORMS = (1e-3, 4.5, 400.0)
WHERE = f"at steps {', '.join(map(str, STEPS))} and ‖w‖ = {', '.join(f'{norm:g}' for norm in NORMS)}"


def length(subject: Subject, optimizer: Optimizer, w: Tensor, g: Tensor, lr: float, decay: float, step: int) -> float:
    """‖Δw‖ as the paper has it, of the ``step``-th step from the same w; of LARS with the same g in all of them."""
    w, g = w.double(), g.double()
    norm = float(w.norm())
    if subject.family == "lamb":
        return lr * norm
    momentum = float(subject.in_effect("momentum", optimizer))
    terms = step + 1 if optimizer.param_groups[0].get("nesterov") else step
    # m⁰ + … + mᵗ⁻¹, whether the rate stands in the velocity or before it
    series = (1 - momentum**terms) / (1 - momentum)
    ratio = float(subject.in_effect("trust_coefficient", optimizer)) * norm / (float(g.norm()) + decay * norm)
    return lr * ratio * float((g + decay * w).norm()) * series


def with_decay(subject: Subject) -> Outcome:
    """Of LARS with as much decay as gradient, so that what is in the denominator shows."""
    if subject.keyword("weight_decay") is None:
        return Outcome("not applicable", "it has no weight decay")
    return _measure(subject, 0.01 if subject.family == "lamb" else 1.0)


def without_decay(subject: Subject) -> Outcome:
    """Adaptation is no matter of weight decay."""
    return _measure(subject, 0.0)


def _measure(subject: Subject, decay: float) -> Outcome:
    draws = generator()
    weights = [of_norm(norm, draws) for norm in NORMS]
    trial = Trial(subject, weights, decay)
    different = 7 if subject.family == "lamb" else 1
    gradients = [[of_norm(2 * w.norm().item() + 1e-3, draws) for w in weights] for _ in range(different)]
    factors: dict[float, list[float]] = {norm: [] for norm in NORMS}
    for step in range(1, STEPS[-1] + 1):
        given = gradients[step % different]
        updates = trial.update(given)
        if step in STEPS:
            for norm, w, g, update in zip(NORMS, weights, given, updates, strict=True):
                expected = length(subject, trial.optimizer, w, g, trial.lr, decay, step)
                factors[norm].append(update.norm().item() / expected)
    return judge(factors)


def judge(factors: dict[float, list[float]]) -> Outcome:
    """From measured / expected lengths, by norm and step.

    >>> judge({4.5: [1.0, 1.0, 1.0, 1.0], 400.0: [0.25, 0.025, 0.025, 0.025]}).measured
    'off at ‖w‖ = 400 by ×0.25, ×0.025, ×0.025, ×0.025'
    """
    errors = torch.tensor(list(factors.values()), dtype=torch.float64).sub(1).abs()
    worst = errors.max().item()
    if worst <= TOLERANCE:
        return Outcome("pass", f"largest relative error {worst:.1e}", worst)
    wrong = {norm: found for norm, found in factors.items() if not all(abs(value - 1) <= TOLERANCE for value in found)}
    parts = [f"‖w‖ = {norm:g} by {', '.join(map(factor, found))}" for norm, found in wrong.items()]
    return Outcome("fail", f"off at {'; at '.join(parts)}", worst if math.isfinite(worst) else math.inf)


LENGTH = Check(
    "length",
    {
        "lamb": f"‖Δw‖ = lr·‖w‖ {WHERE}, weight decay 0.01",
        "lars": f"‖Δw‖ = lr·η‖w‖ / (‖g‖ + λ‖w‖)·‖g + λw‖·(1 - mᵗ)/(1 - m) {WHERE}, λ = 1, the same g in all steps t",
    },
    with_decay,
)
WITHOUT_DECAY = Check(
    "no decay",
    {
        "lamb": f"the same without weight decay: ‖Δw‖ = lr·‖w‖ {WHERE}",
        "lars": f"the same without weight decay: ‖Δw‖ = lr·η‖w‖·(1 - mᵗ)/(1 - m) {WHERE}",
    },
    without_decay,
)
