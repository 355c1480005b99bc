"""What output layers, samplers and sampled embeddings refuse, by name."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from overnight.errors import UserError
from overnight.nn.rows import SampledEmbedding
from overnight.nn.softmax import NCE, AdaptiveSoftmax, FullSoftmax, LogUniform, SampledSoftmax, Unigram

D, V = 4, 30
OUTPUTS: list[Callable[[], Any]] = [
    lambda: FullSoftmax(D, V),
    lambda: SampledSoftmax(D, V, samples=5),
    lambda: NCE(D, V, samples=5),
    lambda: AdaptiveSoftmax(D, V, cutoffs=[10], div_value=2.0),
]
REFUSED: list[tuple[Callable[[], Any], str]] = [
    (lambda: FullSoftmax(0, V), "hidden_size=0"),
    (lambda: FullSoftmax(D, 2.5), "vocab_size=2.5"),  # type: ignore[arg-type]
    (lambda: FullSoftmax(D, V, chunk=0), "chunk=0"),
    (lambda: FullSoftmax(D, V, weight=nn.Parameter(torch.zeros(V, D + 1))), r"\[30, 5\], the output needs \[30, 4\]"),
    (lambda: SampledSoftmax(D, V, samples=V + 1), "31 samples cannot be drawn .* vocabulary of 30 words"),
    (lambda: SampledSoftmax(D, V), "8,192 samples"),
    (lambda: NCE(D, V, samples=0), "samples=0"),
    (lambda: NCE(D, V, samples=-1, unique=False), "samples=-1"),
    (lambda: SampledSoftmax(D, V, samples=5, certain="all"), "certain='all'"),  # type: ignore[arg-type]
    (lambda: SampledSoftmax(D, V, samples=5, sampler=LogUniform(V + 1)), "counts of 31 words, the vocabulary has 30"),
    (lambda: NCE(D, V, samples=5, sampler=Unigram(torch.ones(7))), "counts of 7 words, the vocabulary has 30"),
    (lambda: Unigram(torch.tensor([1, -1])), "negative or infinite"),
    (lambda: Unigram(torch.tensor([1.0, torch.nan])), "negative or infinite"),
    (lambda: Unigram(torch.ones(2, 2)), r"shape \[2, 2\]"),
    (lambda: Unigram(torch.ones(0)), r"shape \[0\]"),
    (lambda: Unigram(torch.ones(3), power=-1.0), "power=-1.0"),
    (lambda: LogUniform(0), "vocab_size=0"),
    (lambda: LogUniform(V).draw_unique(V + 1, torch.Generator()), "31 samples"),
    (lambda: LogUniform(V).draw_unique(0, torch.Generator()), "samples=0"),
    (lambda: AdaptiveSoftmax(D, V, cutoffs=[20, 10]), r"cutoffs=\[20, 10\] do not cut 30 words"),
    (lambda: AdaptiveSoftmax(D, V, cutoffs=[10, 10]), r"cutoffs=\[10, 10\]"),
    (lambda: AdaptiveSoftmax(D, V, cutoffs=[0, 10]), r"cutoffs=\[0, 10\]"),
    (lambda: AdaptiveSoftmax(D, V, cutoffs=[V]), r"cutoffs=\[30\]"),
    (lambda: AdaptiveSoftmax(D, V, cutoffs=[]), r"cutoffs=\[\]"),
    (lambda: AdaptiveSoftmax(D, V, cutoffs=[1.5]), r"cutoffs=\[1.5\]"),  # type: ignore[list-item]
    (lambda: AdaptiveSoftmax(D, V, cutoffs=[5, 10]), "Cluster 2 .* no width: 4 / 4"),
    (lambda: AdaptiveSoftmax(D, V, cutoffs=[5], weight=nn.Parameter(torch.zeros(V, D))), "cannot be tied"),
    (lambda: SampledEmbedding(0, D), "vocab_size=0"),
    (lambda: SampledEmbedding(V, D, weight=nn.Parameter(torch.zeros(V, D + 1))), r"\[30, 5\], the embedding needs"),
]


@pytest.mark.parametrize(("build", "message"), REFUSED, ids=[message for _, message in REFUSED])
def test_settings_that_cannot_be(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build()


@pytest.mark.parametrize("build", OUTPUTS)
@pytest.mark.parametrize("training", [True, False])
def test_what_does_not_fit(build: Callable[[], Any], training: bool) -> None:
    output = build().train(training)
    h, targets = torch.randn(6, D), torch.arange(6)
    for wrong in (V, -1):
        with pytest.raises(UserError, match=f"target id {wrong} is not in a vocabulary of 30 words"):
            output(h, torch.tensor([0, 1, wrong, 2, 3, 4]))
    with pytest.raises(UserError, match=r"h has shape \[6, 4\], the targets \[5\]"):
        output(h, targets[:5])
    with pytest.raises(UserError, match=r"h has shape \[6, 3\], the output layer takes rows of 4"):
        output(h[:, :3], targets)
    with pytest.raises(UserError, match=r"takes rows of 4"):
        output.log_prob(h[0])
    with pytest.raises(UserError, match=r"target ids are torch\.float32"):
        output(h, targets.float())


def test_samples_per_time_step_need_time_steps() -> None:
    output = SampledSoftmax(D, V, samples=5, per_step=True)
    with pytest.raises(UserError, match=r"\[T, B, 4\], not \[6, 4\]"):
        output(torch.randn(6, D), torch.arange(6))


def test_words_outside_the_embedding() -> None:
    for wrong in (V, -2):
        with pytest.raises(UserError, match=f"word id {wrong} is not in a vocabulary of 30 words"):
            SampledEmbedding(V, D)(torch.tensor([0, wrong]))
    assert SampledEmbedding(V, D)(torch.zeros(0, dtype=torch.long)).shape == (0, D)


def test_no_tokens_have_no_loss() -> None:
    for build in OUTPUTS[:3]:
        output = build()
        h = torch.randn(0, D, requires_grad=True)
        loss = output(h, torch.zeros(0, dtype=torch.long))
        loss.backward()
        assert loss.item() == 0.0
        assert output.weight.grad.to_dense().abs().sum() == 0
