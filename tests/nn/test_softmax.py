"""Every output layer against the oracle in losses and gradients; chunks, autocast, ties, resuming."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from oracles import softmax as oracle
from torch import Tensor, nn

from overnight.nn.rows import SampledEmbedding
from overnight.nn.softmax import NCE, AdaptiveSoftmax, FullSoftmax, LogUniform, SampledSoftmax, Unigram
from overnight.nn.softmax.base import LinearOutput

V, D, N = 101, 7, 63
DRAWING = [
    pytest.param(
        cls, options, id="-".join((cls.__name__, *map(str, options.values() if "sampler" not in options else options)))
    )
    for cls, options in [
        *[(SampledSoftmax, {"certain": c, "unique": u}) for c in ("batch", "target", "none") for u in (True, False)],
        (SampledSoftmax, {"sampler": Unigram(torch.arange(V, 0, -1))}),
        (NCE, {"unique": True}),
        (NCE, {"unique": False}),
    ]
]


def tokens() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    h = torch.randn(N, D, dtype=torch.float64, requires_grad=True)
    return h, torch.randint(0, V, (N,))


def build(cls: type[LinearOutput], **options: Any) -> Any:
    torch.manual_seed(2)
    output = cls(D, V, **options).double()
    assert output.bias is not None
    nn.init.normal_(output.weight)
    nn.init.normal_(output.bias)
    return output


def gradients(loss: Tensor, *leaves: Tensor) -> list[np.ndarray]:
    found = torch.autograd.grad(loss, leaves)
    return [g.to_dense().numpy() for g in found]


def agree(loss: Tensor, output: LinearOutput, h: Tensor, expected: oracle.Gradients) -> None:
    assert output.bias is not None
    assert loss.item() == pytest.approx(expected[0], rel=1e-12)
    for found, right in zip(gradients(loss, h, output.weight, output.bias), expected[1:], strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-10, atol=1e-12)


def arrays(output: LinearOutput, h: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert output.bias is not None
    return h.detach().numpy(), output.weight.detach().numpy(), output.bias.detach().numpy()


def drawn(output: Any, targets: Tensor) -> tuple[dict[int, float], dict[int, float]]:
    """How often the next call will draw each word, and the expected count of those words and of the targets."""
    found = copy.deepcopy(output).draw(targets)
    words = found.ids_R.tolist()
    times = {word: float(n) for word, n in zip(words, found.times_R.tolist(), strict=True) if n}
    return times, dict(zip(words, found.log_expected_R.exp().tolist(), strict=True))


@pytest.mark.parametrize("chunk", [None, 1, 7, N, 10 * N])
def test_full(chunk: int | None) -> None:
    h, targets = tokens()
    output = build(FullSoftmax, chunk=chunk)
    agree(output(h, targets), output, h, oracle.full(*arrays(output, h), targets.tolist()))


@pytest.mark.parametrize(("cls", "options"), DRAWING)
def test_drawing(cls: type[LinearOutput], options: dict[str, Any]) -> None:
    h, targets = tokens()
    output = build(cls, samples=20, **options)
    times, expected = drawn(output, targets)
    assert 0 < len(set(times) & set(targets.tolist())) < len(times)  # accidental hits, and others
    last = (options["certain"],) if "certain" in options else ("batch",) if cls is SampledSoftmax else ()
    rule = oracle.sampled if cls is SampledSoftmax else oracle.nce
    agree(output(h, targets), output, h, rule(*arrays(output, h), targets.tolist(), times, expected, *last))


def test_adaptive() -> None:
    torch.manual_seed(0)
    output = AdaptiveSoftmax(D, V, cutoffs=[10, 50], div_value=2.0).double()
    h, targets = tokens()
    parts = output.adaptive
    tails = [(tail[0].weight.detach().numpy(), tail[1].weight.detach().numpy()) for tail in parts.tail]
    head = parts.head.weight.detach().numpy(), parts.head.bias.detach().numpy()
    right = oracle.adaptive(h.detach().numpy(), *head, tails, [10, 50], targets.tolist())
    assert output(h, targets).item() == pytest.approx(right, rel=1e-12)
    assert -output.log_prob(h).gather(1, targets[:, None]).sum().item() == pytest.approx(right, rel=1e-12)
    torch.testing.assert_close(output.log_prob(h).exp().sum(1), torch.ones(N, dtype=torch.float64))


@pytest.mark.parametrize("certain", ["batch", "target", "none"])
def test_all_words_drawn_is_the_full_softmax(certain: str) -> None:
    h, targets = tokens()
    output = build(SampledSoftmax, samples=V, certain=certain)
    agree(output(h, targets), output, h, oracle.full(*arrays(output, h), targets.tolist()))


@pytest.mark.parametrize(("cls", "options"), [(FullSoftmax, {}), *[case.values for case in DRAWING]])
def test_evaluation_is_exact(cls: type[LinearOutput], options: dict[str, Any]) -> None:
    h, targets = tokens()
    output = build(cls, **options, **({} if cls is FullSoftmax else {"samples": 5})).eval()
    right = oracle.full(*arrays(output, h), targets.tolist())
    agree(output(h, targets), output, h, right)
    agree(output.train().exact(h, targets), output, h, right)
    with torch.no_grad():
        assert output.exact(h.view(9, 7, D), targets.view(9, 7)).item() == pytest.approx(right[0])
        assert -output.log_prob(h).gather(1, targets[:, None]).sum().item() == pytest.approx(right[0])
        wanted = -output.log_prob(h).gather(1, targets[:, None])[:, 0]
        for output.chunk in (None, 5):
            torch.testing.assert_close(output.nats(h, targets), wanted)
        with torch.autocast("cpu", torch.bfloat16):
            wanted = -output.log_prob(h).gather(1, targets[:, None])[:, 0]
            torch.testing.assert_close(output.nats(h, targets), wanted)


@pytest.mark.parametrize(("cls", "options"), DRAWING)
def test_only_rows_of_the_step_have_gradients(cls: type[LinearOutput], options: dict[str, Any]) -> None:
    h, targets = tokens()
    output = build(cls, samples=5, **options)
    words = copy.deepcopy(output).draw(targets).ids_R
    dense = copy.deepcopy(output)
    dense.sparse = False
    output(h, targets).backward()
    dense(h, targets).backward()
    for name in ("weight", "bias"):
        sparse, plain = getattr(output, name).grad, getattr(dense, name).grad
        assert sparse.is_sparse
        assert not plain.is_sparse
        assert torch.equal(sparse.coalesce().indices()[0], words)
        assert torch.equal(sparse.to_dense(), plain)


@pytest.mark.parametrize(("cls", "options"), [(FullSoftmax, {"chunk": 10}), *[case.values for case in DRAWING]])
def test_no_memory_is_read_before_it_is_written(cls: type[LinearOutput], options: dict[str, Any]) -> None:
    h, targets = tokens()
    output = build(cls, **options, **({} if cls is FullSoftmax else {"samples": 20}))
    again = copy.deepcopy(output)
    plain = gradients(output(h, targets), h, output.weight, output.bias)
    torch.use_deterministic_algorithms(True)  # fills what torch.empty gives with NaN
    try:
        filled = gradients(again(h, targets), h, again.weight, again.bias)
    finally:
        torch.use_deterministic_algorithms(False)
    for a, b in zip(plain, filled, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("cls", "options"), [(FullSoftmax, {"chunk": 10}), *[case.values for case in DRAWING]])
def test_bf16_autocast(cls: type[LinearOutput], options: dict[str, Any]) -> None:
    h, targets = tokens()
    output = build(cls, **options, **({} if cls is FullSoftmax else {"samples": 20})).float()
    twin = copy.deepcopy(output)
    x = h.detach().float().requires_grad_()
    right = output(x, targets)
    precise = gradients(right, x, output.weight, output.bias)
    with torch.autocast("cpu", torch.bfloat16):
        loss = twin(x.bfloat16(), targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(right.item(), rel=5e-3)
    for a, b in zip(precise, gradients(loss, x, twin.weight, twin.bias), strict=True):
        assert np.linalg.norm(a - b) < 0.01 * np.linalg.norm(a)


def test_the_correction_is_not_rounded_under_autocast() -> None:
    output = SampledSoftmax(D, 100_000, samples=500, certain="none")
    nn.init.zeros_(output.weight)
    twin = copy.deepcopy(output)
    h, targets = torch.randn(9, D), torch.arange(9) * 10_000
    with torch.autocast("cpu", torch.bfloat16):
        loss = output(h, targets)
    assert loss.item() == pytest.approx(twin(h, targets).item(), rel=1e-6)


def test_weighted_loss_and_a_second_backward() -> None:
    h, targets = tokens()
    for output in (build(FullSoftmax), build(SampledSoftmax, samples=9)):
        twin = copy.deepcopy(output)
        (plain,) = gradients(output(h, targets), h)
        loss = twin(h, targets)
        (scaled,) = torch.autograd.grad(loss * 0.25, h, retain_graph=True)
        np.testing.assert_allclose(scaled.numpy(), 0.25 * plain, rtol=1e-12)
        with pytest.raises(RuntimeError, match="run the forward again"):
            loss.backward()


def test_samples_for_every_time_step() -> None:
    h, targets = tokens()
    output = build(SampledSoftmax, samples=20, per_step=True)
    twin = copy.deepcopy(output)
    twin.per_step = False
    x, ids = h.view(9, 7, D), targets.view(9, 7)
    loss = output(x, ids)
    parts = sum(twin(x[t], ids[t]) for t in range(9))
    assert loss.item() == pytest.approx(parts.item(), rel=1e-12)
    for a, b in zip(gradients(loss, h, output.weight), gradients(parts, h, twin.weight), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    before = copy.deepcopy(output)
    assert not torch.equal(before.draw(targets).ids_R, before.draw(targets).ids_R)


@pytest.mark.parametrize("cls", [SampledSoftmax, NCE])
def test_resuming_draws_the_same_words(cls: type[LinearOutput]) -> None:
    h, targets = tokens()
    output = build(cls, samples=9)
    output(h, targets)
    state = {name: tensor.clone() for name, tensor in output.state_dict().items()}
    resumed = build(cls, samples=9, seed=5)
    resumed.load_state_dict(state)
    for _ in range(3):
        assert torch.equal(output(h, targets), resumed(h, targets))
    assert not torch.equal(output(h, targets), build(cls, samples=9, seed=5)(h, targets))


@pytest.mark.parametrize(("cls", "options"), [(FullSoftmax, {}), (SampledSoftmax, {"samples": 20}), (NCE, {})])
def test_tied_to_an_embedding(cls: type[LinearOutput], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    if cls is NCE:
        options = {"samples": 20}
    embedding = SampledEmbedding(V, D).double()
    output = cls(D, V, weight=embedding.weight, **options).double()
    assert output.weight is embedding.weight
    assert output.bias is not None
    ids, targets = torch.randint(0, V, (2, N))
    weight = embedding.weight.detach().numpy()
    drawing = () if cls is FullSoftmax else drawn(output, targets)
    h = embedding(ids).tanh()
    output(h, targets).backward()
    rule = {FullSoftmax: oracle.full, SampledSoftmax: oracle.sampled, NCE: oracle.nce}[cls]
    last = ("batch",) if cls is SampledSoftmax else ()
    x, bias = h.detach().numpy(), output.bias.detach().numpy()
    _, dh, dw, _ = rule(x, weight, bias, targets.tolist(), *drawing, *last)
    np.add.at(dw, ids.numpy(), dh * (1 - x**2))
    assert embedding.weight.grad is not None
    np.testing.assert_allclose(embedding.weight.grad.to_dense().numpy(), dw, rtol=1e-10, atol=1e-12)


def test_without_bias() -> None:
    h, targets = tokens()
    output = FullSoftmax(D, V, bias=False).double()
    right = F.cross_entropy(h @ output.weight.T, targets, reduction="sum")
    assert output(h, targets).item() == pytest.approx(right.item())
    everything = SampledSoftmax(D, V, bias=False, samples=V, weight=output.weight)
    assert everything(h, targets).item() == pytest.approx(right.item())


def test_copies_have_generators_of_their_own() -> None:
    h, targets = tokens()
    output = build(SampledSoftmax, samples=9, sampler=LogUniform(V))
    twin = copy.deepcopy(output)
    first = output(h, targets)
    assert torch.equal(twin(h, targets), first)
    assert not torch.equal(twin(h, targets), first)
