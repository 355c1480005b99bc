"""What a change of units must do to an update: nothing for the loss, its own factor for the weights."""

import torch

from overnight.doctor.optimizer.outcome import Check, Outcome, within
from overnight.doctor.optimizer.subject import Subject
from overnight.doctor.optimizer.trial import SHAPE, Trial, clear_of_zero, difference, generator, of_norm

STEPS = 5
LOSS, WEIGHTS = 1024.0, 8.0  # powers of two: what is exact stays exact


def of_the_loss(subject: Subject) -> Outcome:
    """Gradients × c, and the updates must be the same."""
    draws = generator()
    # in all elements but one Δw is not rounded to the weight's last digit
    weights = [torch.zeros(SHAPE).index_put_((torch.tensor(0), torch.tensor(0)), torch.tensor(4.5))]
    decay = 0.01 if subject.family == "lamb" else 0.0
    one, other = Trial(subject, weights, decay), Trial(subject, weights, decay)
    errors = []
    for _ in range(STEPS):
        gradient = clear_of_zero(draws)
        errors.append(difference(other.update([gradient * LOSS]), one.update([gradient])))
    return within(_largest(errors), "largest relative difference of an update")


def of_the_weights(subject: Subject) -> Outcome:
    """Weights × c, gradients / c, and the weight decay so that it keeps its share: the updates must be × c."""
    draws = generator()
    weight = of_norm(4.5, draws)
    decay, power = (0.01, 1) if subject.family == "lamb" else (1.0, 2)
    one = Trial(subject, [weight], decay)
    other = Trial(subject, [weight * WEIGHTS], decay / WEIGHTS**power)
    errors = []
    for _ in range(STEPS):
        gradient = clear_of_zero(draws) if subject.family == "lamb" else of_norm(9.0, draws)
        expected = [update * WEIGHTS for update in one.update([gradient])]
        errors.append(difference(other.update([gradient / WEIGHTS]), expected))
    return within(_largest(errors), "largest relative difference of an update")


def _largest(errors: list[float]) -> float:
    return float("nan") if any(error != error for error in errors) else max(errors)


LOSS_SCALE = Check(
    "loss scale",
    {
        "lamb": f"gradients × {LOSS:g} change no update",
        "lars": f"gradients × {LOSS:g} change no update, without weight decay",
    },
    of_the_loss,
)
WEIGHT_SCALE = Check(
    "weight scale",
    {
        "lamb": f"(w, g, λ) → (cw, g/c, λ/c) makes every update × c = {WEIGHTS:g}",
        "lars": f"(w, g, λ) → (cw, g/c, λ/c²) makes every update × c = {WEIGHTS:g}",
    },
    of_the_weights,
)
