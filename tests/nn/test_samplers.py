"""Samplers: what they draw, how often, and that the corrected loss is an estimate of the full one."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from overnight.nn.softmax import NCE, FullSoftmax, LogUniform, SampledSoftmax, Sampler, Unigram

V = 200
COUNTS = torch.arange(V, 0, -1) ** 2
SAMPLERS = [LogUniform(V), Unigram(COUNTS), Unigram(COUNTS, 0.75), Unigram(COUNTS.flip(0))]
NAMES = ["log-uniform", "unigram", "unigram^0.75", "rising"]
CASES = list(zip(SAMPLERS, NAMES, strict=True))


def right_probabilities(name: str) -> np.ndarray:
    k = np.arange(V)
    if name == "log-uniform":
        return np.asarray(np.log((k + 2) / (k + 1)) / np.log(V + 1))
    weights = (COUNTS.flip(0) if name == "rising" else COUNTS).double().numpy()
    weights = weights ** (0.75 if "0.75" in name else 1.0)
    return np.asarray(weights / weights.sum())


@pytest.mark.parametrize(("sampler", "name"), CASES, ids=NAMES)
def test_draws_have_the_stated_distribution(sampler: Sampler, name: str) -> None:
    """χ² over 100 bins of equal probability; 99 degrees of freedom, 99.9 % quantile 148.2."""
    q = right_probabilities(name)
    np.testing.assert_allclose(sampler.log_probability(torch.arange(V)).exp().numpy(), q, rtol=1e-12)
    assert q.sum() == pytest.approx(1.0)
    draws = sampler.draw(200_000, torch.Generator().manual_seed(0)).numpy()
    assert draws.min() >= 0
    assert draws.max() < V
    bins = np.minimum((np.cumsum(q) - q / 2) * 100, 99).astype(int)
    expected, found = (np.bincount(bins, weights, 100) for weights in (q * len(draws), np.bincount(draws, None, V)))
    held = expected > 0
    assert held.sum() > 40
    chi_square = float(np.sum((found - expected)[held] ** 2 / expected[held]))
    assert chi_square < 148.2


@pytest.mark.parametrize(("sampler", "name"), [CASES[0], CASES[3]], ids=[NAMES[0], NAMES[3]])
@pytest.mark.parametrize("count", [5, 30, 150])
def test_unique_draws_are_unbiased(sampler: Sampler, name: str, count: int) -> None:
    """1/E where a word is drawn, else 0, estimates 1: means over 2,000 draws and 20 words, within 5 standard errors."""
    generator = torch.Generator().manual_seed(1)
    rounds, bins = 2000, 10
    estimates = np.zeros((rounds, V))
    for row in estimates:
        ids, log_expected, tries = sampler.draw_unique(count, generator)
        assert len(ids) == count
        assert bool((ids[1:] > ids[:-1]).all())
        assert tries >= count
        row[ids.numpy()] = np.exp(-log_expected.numpy())
    means = estimates.reshape(rounds, bins, -1).mean(2)
    # words that are drawn nearly always have no error to speak of, and are off by their rare misses
    error = np.maximum(means.std(0) / np.sqrt(rounds), 1e-4)
    assert np.all(np.abs(means.mean(0) - 1) < 5 * error)
    assert np.all(error < 0.2)


def test_expected_counts_are_those_of_so_many_tries() -> None:
    sampler, generator = LogUniform(V), torch.Generator().manual_seed(2)
    rounds, tries = 4000, 30
    draws = sampler.draw(rounds * tries, generator).view(rounds, tries)
    for word in (0, 1, 7, 40, 199):
        rate = (draws == word).any(1).double().mean().item()
        expected = sampler.log_expected_count(torch.tensor([word]), tries).exp().item()
        assert rate == pytest.approx(expected, abs=5 * math.sqrt(expected * (1 - expected) / rounds))


def test_all_words() -> None:
    ids, log_expected, tries = LogUniform(V).draw_unique(V, torch.Generator())
    assert torch.equal(ids, torch.arange(V))
    assert not log_expected.any()
    assert not LogUniform(V).log_expected_count(ids, tries).any()
    assert LogUniform(1).draw_unique(1, torch.Generator()).ids.tolist() == [0]


def test_words_that_were_never_counted_are_drawn_too() -> None:
    sampler = Unigram(torch.tensor([3, 0, 6]))
    np.testing.assert_allclose(sampler.log_probability(torch.arange(3)).exp(), [0.3, 0.1, 0.6])
    assert sampler.draw_unique(2, torch.Generator().manual_seed(0)).ids.shape == (2,)


def test_the_same_state_draws_the_same() -> None:
    for sampler in SAMPLERS:
        first = sampler.draw_unique(50, torch.Generator().manual_seed(3))
        assert torch.equal(first.ids, sampler.draw_unique(50, torch.Generator().manual_seed(3)).ids)


WORDS, WIDTH, TOKENS = 100, 6, 40


def model_of_zipf(output: Any) -> Any:
    """Weights whose softmax has Zipf's law, and is not that of the sampler."""
    torch.manual_seed(0)
    output = output.double()
    with torch.no_grad():
        output.weight.normal_(std=0.7)
        output.bias.copy_(-torch.arange(1.0, WORDS + 1).double().log())
    return output


def gradient(output: Any, h: Tensor, targets: Tensor) -> Tensor:
    found = torch.autograd.grad(output(h, targets), [h, output.weight, output.bias])
    return torch.cat([g.to_dense().flatten() for g in found])


def example() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    h = torch.randn(TOKENS, WIDTH, dtype=torch.float64)
    full = model_of_zipf(FullSoftmax(WIDTH, WORDS))
    targets = torch.multinomial(full.log_prob(h).detach().exp(), 1)[:, 0]
    return h.requires_grad_(), targets


def mean_gradient(samples: int, rounds: int, **options: Any) -> tuple[float, float]:
    """How far the mean gradient over many draws is from the full softmax's, and its standard error, relative to it."""
    h, targets = example()
    full = gradient(model_of_zipf(FullSoftmax(WIDTH, WORDS)), h, targets)
    output = model_of_zipf(SampledSoftmax(WIDTH, WORDS, samples=samples, **options))
    found = torch.stack([gradient(output, h, targets) for _ in range(rounds)])
    error = (found.std(0) / math.sqrt(rounds)).norm() / full.norm()
    return ((found.mean(0) - full).norm() / full.norm()).item(), error.item()


class _Uncorrected:
    """A sampler that says that every word is certain."""

    def __init__(self) -> None:
        self.real, self.vocab_size = LogUniform(WORDS), WORDS

    def draw_unique(self, count: int, generator: torch.Generator) -> Any:
        found = self.real.draw_unique(count, generator)
        return found._replace(log_expected_count=torch.zeros_like(found.log_expected_count))

    def log_expected_count(self, ids: Tensor, tries: float) -> Tensor:
        return torch.zeros(len(ids), dtype=torch.float64)

    def log_probability(self, ids: Tensor) -> Tensor:
        return self.real.log_probability(ids)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return self.real.draw(count, generator)


@pytest.mark.parametrize(("certain", "at10", "at50"), [("batch", 0.15, 0.03), ("target", 0.35, 0.2)])
def test_the_gradient_tends_to_the_full_softmaxs(certain: Any, at10: float, at50: float) -> None:
    """Mean over 400 draws, of 10 and 50 of 100 words, against the stated bounds; all 100 words: rounding only."""
    bias10, error10 = mean_gradient(10, 400, certain=certain)
    bias50, error50 = mean_gradient(50, 400, certain=certain)
    all_words, _ = mean_gradient(WORDS, 2, certain=certain)
    assert bias10 < at10
    assert bias50 < at50
    assert bias50 < 0.7 * bias10
    assert error10 < 0.05
    assert error50 < 0.02
    assert all_words < 1e-12
    uncorrected, _ = mean_gradient(10, 400, certain=certain, sampler=_Uncorrected())
    assert uncorrected > 1.5 * bias10


def test_targets_of_the_batch_as_candidates_lower_bias_and_noise() -> None:
    batch, batch_error = mean_gradient(10, 600, certain="batch")
    own, own_error = mean_gradient(10, 600, certain="target")
    assert batch < 0.8 * own
    assert batch_error < 0.8 * own_error


@pytest.mark.parametrize("unique", [True, False])
@pytest.mark.parametrize("certain", ["batch", "target"])
def test_the_partition_function_is_estimated_without_bias(certain: Any, unique: bool) -> None:
    """Tokens of one context have one estimate, exp of the mean of loss + logit: right within 5 standard errors."""
    h, targets = example()
    tokens = 20 if certain == "batch" else 1
    h, targets = h[:1].expand(tokens, WIDTH).detach(), targets[:tokens]
    output = model_of_zipf(SampledSoftmax(WIDTH, WORDS, samples=10, certain=certain, unique=unique))
    logits = (h[0] @ output.weight.T + output.bias).detach()
    with torch.no_grad():
        means = torch.stack([(output(h, targets) + logits[targets].sum()) / tokens for _ in range(1500)])
    sample = means.exp()
    assert abs(sample.mean() - logits.exp().sum()) < 5 * sample.std() / math.sqrt(len(sample))


def test_nce_tends_to_the_likelihoods_gradient() -> None:
    """Where the model is normalised, with 400 noise words a word of the vocabulary: within 5 % of the full gradient."""
    h, targets = example()
    full = model_of_zipf(FullSoftmax(WIDTH, WORDS))
    h = torch.zeros_like(h).requires_grad_()  # one context, so that the bias can normalise
    with torch.no_grad():
        full.bias.sub_(full.bias.logsumexp(0))
    output = model_of_zipf(NCE(WIDTH, WORDS, samples=40_000, unique=False))
    with torch.no_grad():
        output.bias.copy_(full.bias)
    found, right = (torch.autograd.grad(one(h, targets), one.bias)[0].to_dense() for one in (output, full))
    assert ((found - right).norm() / right.norm()).item() < 0.05
