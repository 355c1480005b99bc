"""Norms of large tensors, of low-precision tensors, and of tensors that 32-bit indices cannot address."""

import math

import torch

from overnight.doctor.optimizer.length import length
from overnight.doctor.optimizer.outcome import Check, Outcome, factor, within
from overnight.doctor.optimizer.subject import Subject
from overnight.doctor.optimizer.trial import RATE, SLIGHT_DECAY, Trial, generator

BF16_TOLERANCE = 1e-3
MIDPOINT = 1 + 2**-8  # between two bfloat16 numbers: a norm that is rounded to them is 0.4 % off
SIDE = 4096


def bfloat16(subject: Subject) -> Outcome:
    """Along the float32 step of the same weights and gradients, on 2^19 weights of 2^20 that are zero.

    Of a weight that is zero only the update itself is rounded, and over so many that cancels.
    """
    draws = generator()
    weight = torch.randn(1024, 1024, generator=draws)
    weight[512:] = 0
    weight = (weight * (4 * MIDPOINT / weight.double().norm())).bfloat16()
    low, high = (Trial(subject, [w], SLIGHT_DECAY) for w in (weight, weight.float()))
    for _ in range(2):
        gradient = torch.randn(weight.shape, generator=draws).bfloat16()
        found, expected = (trial.update([gradient])[0][512:] for trial in (low, high))
    return _judge(((found * expected).sum() / expected.square().sum()).item(), BF16_TOLERANCE)


def large(subject: Subject) -> Outcome:
    """A sum of 2^24 equal squares is where adding up in float32 fails; ‖u‖ is of few elements, so that it is right."""
    weight = torch.full((SIDE, SIDE), 0.1)  # the sums of 0.01 are not exact, as those of 1 would be
    gradient = torch.zeros(SIDE, SIDE)
    gradient[0] = 100.0
    trial = Trial(subject, [weight], SLIGHT_DECAY)
    trial.step([gradient])
    step = (trial.parameters[0].detach()[0].double() - weight[0].double()).norm().item()
    norm = weight.double().norm()
    expected = length(subject, trial.optimizer, norm, gradient[0], trial.lr, 0.0, 1)
    return _judge(step / expected)


def ten_to_the_ninth(subject: Subject) -> Outcome:
    """Two steps of shapes alone."""
    parameter = torch.nn.Parameter(torch.empty(31250, 32000, device="meta"))
    optimizer = subject.build([parameter], RATE[subject.family])
    for _ in range(2):
        parameter.grad = torch.empty_like(parameter)
        optimizer.step()
    return Outcome("pass", "steps without an error")


def _judge(ratio: float, tolerance: float = 1e-5) -> Outcome:
    error = abs(ratio - 1)
    if error <= tolerance or not math.isfinite(error):
        return within(error, "relative error", tolerance)
    return Outcome("fail", f"off by {factor(ratio)}", error)


BF16 = Check(
    "bfloat16",
    dict.fromkeys(
        ("lamb", "lars"),
        f"a step of 2^20 bfloat16 weights is as long as the float32 one to {BF16_TOLERANCE:g}: norms not in bfloat16",
    ),
    bfloat16,
)
LARGE = Check(
    "large tensor",
    {
        "lamb": "‖Δw‖ = lr·‖w‖ for 2^24 equal float32 weights",
        "lars": "‖Δw‖ = lr·η‖w‖ for 2^24 equal float32 weights",
    },
    large,
)
INDEXING = Check(
    "10⁹ elements",
    dict.fromkeys(("lamb", "lars"), "a tensor of 10⁹ elements steps on the meta device: no value is read"),
    ten_to_the_ninth,
)
