"""Embeddings whose gradients hold the rows of the step: equal to torch's dense one, and only those rows."""

import pytest
import torch
from torch import nn

from overnight.nn.rows import SampledEmbedding


@pytest.mark.parametrize("shape", [(7,), (5, 3), (0,)])
@pytest.mark.parametrize("sparse", [True, False])
def test_equals_torch(shape: tuple[int, ...], sparse: bool) -> None:
    torch.manual_seed(0)
    embedding = SampledEmbedding(11, 6, sparse=sparse).double()
    theirs = nn.Embedding(11, 6, _weight=embedding.weight.detach().clone())
    ids, factors = torch.randint(0, 11, shape), torch.randn(*shape, 6, dtype=torch.float64)
    outputs = embedding(ids), theirs(ids)
    assert torch.equal(*outputs)
    for output in outputs:
        (output * factors).sum().backward()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.is_sparse == sparse
    torch.testing.assert_close(embedding.weight.grad.to_dense(), theirs.weight.grad, rtol=1e-12, atol=1e-12)
    if sparse:
        assert torch.equal(embedding.weight.grad._indices()[0], ids.unique())


def test_several_uses_and_steps_add_up() -> None:
    embedding = SampledEmbedding(9, 2)
    (embedding(torch.tensor([1, 4])).sum() + embedding(torch.tensor([4, 7])).sum()).backward()
    embedding(torch.tensor([0])).sum().backward()
    assert embedding.weight.grad is not None
    assert embedding.weight.grad.coalesce().indices()[0].tolist() == [0, 1, 4, 7]
    assert embedding.weight.grad.to_dense()[:, 0].tolist() == [1, 1, 0, 0, 2, 0, 0, 1, 0]


def test_torchs_own_optimizers_take_it() -> None:
    for kind in (torch.optim.SGD, torch.optim.Adagrad, torch.optim.SparseAdam):
        embedding = SampledEmbedding(9, 2)
        before = embedding.weight.detach().clone()
        optimizer = kind(embedding.parameters(), lr=0.1)
        embedding(torch.tensor([3, 3, 8])).sum().backward()
        optimizer.step()
        changed = (embedding.weight != before).any(1).nonzero()[:, 0]
        assert changed.tolist() == [3, 8]
