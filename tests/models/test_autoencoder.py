"""The autoencoder: the paper's parameter counts, and the sparse pass against products with whole matrices."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from oracles.ratings import dense_autoencoder, ragged
from torch.autograd import gradcheck

from overnight.errors import UserError
from overnight.models.autoencoder import ACTIVATIONS, RatingAutoencoder
from overnight.nn.gathered import gathered_product

NETFLIX = 17_768


@pytest.mark.parametrize(
    ("hidden", "tied", "parameters"),
    [
        ((512, 512, 1024), False, 19_788_136),
        ((512, 512, 1024), True, 9_904_488),
        ((128,), False, 4_566_504),
        ((128,) * 2, False, 4_599_528),
        ((128,) * 3, False, 4_632_552),
        ((128,) * 4, False, 4_665_576),
        ((128,) * 5, False, 4_698_600),
        ((128,) * 6, False, 4_731_624),
        ((256,), False, 9_115_240),
    ],
)
def test_the_papers_parameters(hidden: tuple[int, ...], tied: bool, parameters: int) -> None:
    with torch.device("meta"):
        model = RatingAutoencoder(NETFLIX, hidden, tied=tied)
    assert sum(p.numel() for p in model.parameters()) == parameters


def small(**settings: Any) -> tuple[RatingAutoencoder, torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...]]:
    """A net in float64 on 7 users × 11 items, one user without ratings, zeros and negative ratings among them."""
    torch.manual_seed(0)
    model = RatingAutoencoder(11, (6, 5, 3), **{"dropout": 0.0, **settings}).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    generator = np.random.default_rng(1)
    mask, x = generator.random((7, 11)) < 0.4, np.round(generator.normal(0, 2, (7, 11)))
    mask[2], mask[4, 4] = False, True
    x[4, 4] = 0.0
    assert (x[mask] == 0).any()
    assert (x[mask] < 0).any()
    return model, torch.from_numpy(np.where(mask, x, 0.0)), torch.from_numpy(mask.astype(float)), ragged(mask, x)


@pytest.mark.parametrize(("tied", "biases", "normalized", "implicit"), list(product([False, True], repeat=4)))
def test_sparse_is_dense(tied: bool, biases: bool, normalized: bool, implicit: bool) -> None:
    """Outputs and gradients of every parameter, in float64."""
    model, x_Bn, mask_Bn, (offset, item, value) = small(
        tied=tied, biases=biases, normalized=normalized, implicit=implicit, mean=0.5, scale=1.7
    )
    grads = []
    for sparse in (True, False):
        model.zero_grad()
        said = model(offset, item, value) if sparse else dense_autoencoder(model, x_Bn, mask_Bn)[mask_Bn.bool()]
        (said - value).square().sum().backward()
        grads.append((said.detach(), {name: p.grad.clone() for name, p in model.named_parameters()}))
    torch.testing.assert_close(grads[0][0], grads[1][0], rtol=1e-12, atol=1e-12)
    for name, grad in grads[0][1].items():
        assert grad.abs().sum() > 0, name
        torch.testing.assert_close(grad, grads[1][1][name], rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("last_activation", [True, False])
def test_every_activation(activation: str, last_activation: bool) -> None:
    model, x_Bn, mask_Bn, (offset, item, value) = small(activation=activation, last_activation=last_activation)
    whole = dense_autoencoder(model, x_Bn, mask_Bn)
    torch.testing.assert_close(model(offset, item, value), whole[mask_Bn.bool()])
    torch.testing.assert_close(model.dense(model.hidden(offset, item, value)), whole)


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize("biases", [False, True])
def test_dense_passes_and_some_items(biases: bool, implicit: bool) -> None:
    """``hidden_dense`` is ``hidden`` of a user who rated all, or all of some items; ``dense`` of some items a part."""
    model, _, _, (offset, item, value) = small(biases=biases, normalized=True, implicit=implicit)
    y_Bn, some = torch.randn(7, 11, dtype=torch.float64), torch.tensor([1, 4, 5, 9])
    everything = torch.ones(7, 11)
    torch.testing.assert_close(
        model.dense(model.hidden_dense(y_Bn)), dense_autoencoder(model, y_Bn, everything.double())
    )
    only = torch.zeros(7, 11, dtype=torch.float64)
    only[:, some] = 1
    whole = dense_autoencoder(model, y_Bn * only, only)
    torch.testing.assert_close(model.dense(model.hidden_dense(y_Bn[:, some], some), some), whole[:, some])
    hidden = model.hidden(offset, item, value)
    torch.testing.assert_close(model.dense(hidden, some), model.dense(hidden)[:, some])


def test_other_items_than_those_shown() -> None:
    model, x_Bn, mask_Bn, (offset, item, value) = small(biases=True)
    asked = torch.tensor([0, 10, 3])
    said = model(offset, item, value, torch.tensor([0, 0, 2, 2, 2, 2, 2, 3]), asked)
    whole = dense_autoencoder(model, x_Bn, mask_Bn)
    torch.testing.assert_close(said, whole[torch.tensor([1, 1, 6]), asked])


def test_a_user_without_ratings_is_answered() -> None:
    model, *_ = small(biases=True, normalized=True, implicit=True)
    empty = torch.zeros(0, dtype=torch.int64)
    said = model.dense(model.hidden(torch.tensor([0, 0]), empty, torch.zeros(0)))
    assert torch.isfinite(said).all()
    assert model(torch.tensor([0, 0]), empty, torch.zeros(0)).shape == (0,)


def test_bounds_hold_in_evaluation_and_leave_the_order_of_a_list() -> None:
    model, _, _, (offset, item, value) = small(bounds=(-0.1, 0.2))
    free = model(offset, item, value)
    assert free.min() < -0.1
    assert free.max() > 0.2
    model.eval()
    assert torch.equal(model(offset, item, value), free.clamp(-0.1, 0.2))
    hidden = model.hidden(offset, item, value)
    assert torch.equal(model.at(hidden, offset, item), free)
    assert model.dense(hidden).max() > 0.2


def test_dropout_is_on_the_code_and_in_training_only() -> None:
    model, _, _, (offset, item, value) = small(dropout=0.5)
    assert not torch.equal(model(offset, item, value), model(offset, item, value))
    model.eval()
    assert torch.equal(model(offset, item, value), model(offset, item, value))


def test_the_gathered_product() -> None:
    """Its gradient against finite differences, an index asked for twice and by several rows among them."""
    torch.manual_seed(0)
    state = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    offset, index = torch.tensor([0, 2, 2, 5, 6]), torch.tensor([5, 1, 1, 0, 1, 5])
    assert gradcheck(lambda s, w: gathered_product(s, w, offset, index), (state, weight))
    none = gathered_product(state, weight, torch.zeros(5, dtype=torch.int64), index[:0])
    none.sum().backward()
    assert none.shape == (0,)
    assert not weight.grad.any()


def test_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    state, weight = torch.randn(3, 8), torch.randn(50, 8)
    offset, index = torch.tensor([0, 40, 40, 101]), torch.randint(50, (101,))
    whole = gathered_product(state, weight, offset, index)
    monkeypatch.setattr("overnight.nn.gathered.CHUNK_BYTES", 7 * 32)
    torch.testing.assert_close(gathered_product(state, weight, offset, index), whole)


def test_under_autocast_the_last_product_stays_exact() -> None:
    model, _, _, (offset, item, value) = small()
    model, value = model.float().requires_grad_(), value.float()
    with torch.autocast("cpu", torch.bfloat16):
        said = model(offset, item, value)
    assert said.dtype == torch.float32
    said.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"items": 0}, "0 items"),
        ({"hidden": ()}, "layers \\(\\)"),
        ({"activation": "gelu"}, "activation='gelu'"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"scale": 0.0}, "scale=0.0"),
        ({"bounds": (2.0, 1.0)}, "bounds=\\(2.0, 1.0\\)"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        RatingAutoencoder(**{"items": 3, "hidden": (2,), **settings})


def test_an_item_that_there_is_not() -> None:
    model, *_ = small()
    with pytest.raises(UserError, match="There is an item 11; this model knows 0 to 10"):
        model(torch.tensor([0, 1]), torch.tensor([11]), torch.ones(1))
