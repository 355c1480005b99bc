"""Zero weights and zero gradients: finite, and not stuck."""

import math

import torch

from overnight.doctor.optimizer.outcome import Check, Outcome, factor
from overnight.doctor.optimizer.subject import Subject
from overnight.doctor.optimizer.trial import SHAPE, Trial, clear_of_zero, generator, of_norm

RATE = 0.5
TOLERANCE = 1e-3  # where a gradient is normalised, ε is not nothing


def zeros(subject: Subject) -> Outcome:
    """Three tensors: w = 0, g = 0, and both."""
    draws = generator()
    weights = [torch.zeros(SHAPE), of_norm(4.5, draws), torch.zeros(SHAPE)]
    gradients = [clear_of_zero(draws), torch.zeros(SHAPE), torch.zeros(SHAPE)]
    trial = Trial(subject, weights, lr=RATE)
    from_zero, without_gradient, without_both = trial.update(gradients)
    later = trial.update([clear_of_zero(draws) for _ in weights])
    if not all(update.isfinite().all() for update in (from_zero, without_gradient, without_both, *later)):
        return Outcome("fail", "an update is not finite", math.inf)
    if without_gradient.any() or without_both.any():
        return Outcome("fail", "a tensor without gradient moves")
    # Adam's first step has the elements ±1 with bias correction and ±(1 - β₁)/√(1 - β₂) without
    nesterov = trial.optimizer.param_groups[0].get("nesterov", False)
    sizes = {"": gradients[0].double().norm().item() * (1 + nesterov * subject.in_effect("momentum", trial.optimizer))}
    if subject.family == "lamb":
        beta1, beta2 = subject.in_effect("betas", trial.optimizer)[:2]
        one = math.sqrt(from_zero.numel())
        sizes = {"": one, ", no bias correction": one * (1 - beta1) / math.sqrt(1 - beta2)}
    factors = {name: from_zero.norm().item() / (RATE * size) for name, size in sizes.items()}
    name, nearest = min(factors.items(), key=lambda item: abs(item[1] - 1))
    error = abs(nearest - 1)
    if error <= TOLERANCE:
        return Outcome("pass", f"finite; ratio 1{name}, relative error {error:.1e}", error)
    if nearest == 0:
        return Outcome("fail", "a zero tensor never moves", error)
    return Outcome("fail", f"finite; a zero tensor moves by {factor(factors[''])} of that", error)


ZEROS = Check(
    "zeros",
    {
        "lamb": "w = 0: ratio 1, ‖Δw‖ = lr·‖u‖; g = 0, no decay: Δw = 0; all finite, and afterwards",
        "lars": "w = 0: ratio 1, ‖Δw‖ = lr·‖g‖; g = 0, no decay: Δw = 0; all finite, and afterwards",
    },
    zeros,
)
