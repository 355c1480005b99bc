"""Branched runs find a critical batch that is known, and leave the training as they found it."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from overnight.errors import UserError
from overnight.scaling.critical_batch import Fork, branches, probe_critical_batch


def lawful(critical: float, batch: int = 100):
    """Loss falls as exp(-steps of progress): samples to any loss grow as 1 + kB/Bc."""

    def branch(k: int) -> Iterator[tuple[float, float]]:
        seen = 0.0
        while True:
            yield seen, math.exp(-seen / (1e4 * (1 + k * batch / critical)))
            seen += 700.0

    return branch


@pytest.mark.parametrize("critical", [300.0, 5000.0])
def test_a_law_is_found(critical: float) -> None:
    found = probe_critical_batch(lawful(critical), global_batch_size=100, samples=9000)
    assert found.law.critical_batch == pytest.approx(critical, rel=0.03)
    assert found.samples[8] / found.samples[1] == pytest.approx((1 + 800 / critical) / (1 + 100 / critical), rel=0.01)
    assert found.wasteful == ()


def test_branches_that_take_too_long_are_named_and_left_out() -> None:
    found = probe_critical_batch(lawful(100.0), global_batch_size=100, samples=9000, longest=3.0)
    assert found.wasteful == (8,)  # it needs 4.5 times the samples
    assert found.law.critical_batch == pytest.approx(100.0, rel=0.05)


def test_what_cannot_be_told() -> None:
    flat = lambda k: iter([(0.0, 1.0), (100.0, 1.0)])  # noqa: E731
    with pytest.raises(UserError, match="did not lower its loss within 100"):
        probe_critical_batch(flat, global_batch_size=8, samples=100)
    with pytest.raises(UserError, match="past the critical one already"):
        probe_critical_batch(lawful(1.0), global_batch_size=100, samples=9000, longest=1.5)
    with pytest.raises(ValueError, match="rise from 1"):
        probe_critical_batch(lawful(1.0), global_batch_size=100, samples=9000, factors=(2, 4))


class Problem:
    """Least squares with label noise, by SGD with momentum; data by position."""

    def __init__(self, noise: float) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(20, 1, bias=False)
        nn.init.constant_(self.model.weight, 1.0)
        self.noise = noise
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.004, momentum=0.5)

    def step(self, samples: int, seen: float) -> None:
        generator = torch.Generator().manual_seed(int(seen))
        x = torch.randn(samples, 20, generator=generator)
        y = self.noise * torch.randn(samples, 1, generator=generator)
        self.optimizer.zero_grad()
        (self.model(x) - y).square().mean().backward()
        self.optimizer.step()

    def evaluate(self) -> float:
        """What is to be learnt is 0, so the loss without the labels' noise is |w|²."""
        return float(self.model.weight.detach().square().sum())

    def probe(self):
        fork = Fork(self.model, self.optimizer)
        branch = branches(fork, self.optimizer, self.step, self.evaluate, global_batch_size=4, evaluate_every=1)
        return probe_critical_batch(branch, global_batch_size=4, samples=240, longest=8.0)


def test_more_noise_means_a_larger_critical_batch_and_the_training_goes_on_unmoved() -> None:
    found = {}
    for noise in (0.0, 8.0):
        problem = Problem(noise)
        for index in range(3):
            problem.step(4, index)
        weight = problem.model.weight.detach().clone()
        momentum = problem.optimizer.state[problem.model.weight]["momentum_buffer"].clone()
        random = torch.get_rng_state()
        found[noise] = problem.probe()
        assert torch.equal(problem.model.weight, weight)
        assert torch.equal(problem.optimizer.state[problem.model.weight]["momentum_buffer"], momentum)
        assert problem.optimizer.param_groups[0]["lr"] == 0.004
        assert torch.equal(torch.get_rng_state(), random)
        assert problem.model.weight.requires_grad
    assert found[8.0].law.critical_batch > 2 * found[0.0].law.critical_batch
