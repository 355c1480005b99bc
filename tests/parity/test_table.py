"""Inputs looked up in a projected table: what embedding and then projecting every step gives, outputs and gradients."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from overnight.models.byte_lm import ByteLM
from overnight.nn.fast.table import look_up
from overnight.nn.gates import DenseGates, FactorizedGates, GroupedGates, MultiplicativeGates
from overnight.nn.recurrence import Recurrent

V, D, H = 7, 6, 12
MAPS = {
    "dense": DenseGates,
    "factorized": partial(FactorizedGates, rank=5),
    "grouped": partial(GroupedGates, groups=3),
    "multiplicative": MultiplicativeGates,
}


def results(name: str, output: int, dtype: torch.dtype, table: bool, chunk: int | None = None) -> list[Tensor]:
    torch.manual_seed(0)
    layer = Recurrent(MAPS[name](D, H, output, weight_norm=True), chunk=chunk)
    embedding = nn.Embedding(V, D)
    ids, reset = torch.randint(V, (9, 5)), torch.rand(9, 5) < 0.2
    state = tuple(torch.randn(5, size) for size in (output, H))
    layer, embedding = layer.to(dtype), embedding.to(dtype)
    if table:
        h, last = layer.look_up(ids, embedding.weight, state, reset)
    else:
        h, last = layer(embedding(ids), state, reset)
    loss = sum((part * torch.randn(part.shape).to(part.dtype)).sum() for part in (h, *last))
    loss.backward()
    return [
        h.detach(),
        *(part.detach() for part in last),
        *(p.grad for p in (*embedding.parameters(), *layer.parameters())),
    ]


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("output", [H, 3], ids=["", "projected"])
@pytest.mark.parametrize("chunk", [None, 4])
def test_equals_embedding_and_projecting(name: str, output: int, chunk: int | None) -> None:
    ours, theirs = (results(name, output, torch.float64, table, chunk) for table in (True, False))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", MAPS)
def test_in_bf16_it_is_as_near_to_float64_as_the_product_of_every_step(name: str) -> None:
    exact = results(name, H, torch.float64, table=False)
    ours, theirs = (results(name, H, torch.bfloat16, table) for table in (True, False))
    for mine, other, truth in zip(ours, theirs, exact, strict=True):
        scale = truth.abs().max()
        off = [(tensor.double() - truth).abs().max() / scale for tensor in (mine, other)]
        assert off[0] < max(1.5 * off[1], 0.02), off


def test_gradient_of_a_frequent_value_is_added_up_in_float32() -> None:
    table = torch.zeros(3, 2, dtype=torch.bfloat16, requires_grad=True)
    ids = torch.zeros(300, 20, dtype=torch.long)
    look_up(table, ids).sum().backward()
    assert table.grad is not None
    nearest = torch.tensor(6000.0).bfloat16().item()
    assert table.grad.tolist() == [[nearest] * 2, [0.0] * 2, [0.0] * 2]


class Additions(TorchDispatchMode):
    """Counts the additions of rows."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ == "index_add_"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("time", "batch", "additions"), [(2000, 1, 8), (700, 3, 9), (2, 600, 6), (0, 3, 1), (3, 0, 1)])
def test_gradient_is_added_up_in_blocks_of_rows(dtype: torch.dtype, time: int, batch: int, additions: int) -> None:
    """As many additions as blocks, however long or wide the window; the sum is that of step after step."""
    torch.manual_seed(0)
    ids, dp = torch.randint(5, (time, batch)), torch.randn(time, batch, 3).to(dtype)
    table = torch.zeros(5, 3, dtype=dtype, requires_grad=True)
    out = look_up(table, ids)
    with Additions() as mode:
        (found,) = torch.autograd.grad(out, table, dp)
    assert mode.count == additions
    expected = torch.zeros(5, 3)
    for ids_B, dp_BP in zip(ids, dp, strict=True):
        expected.index_add_(0, ids_B, dp_BP.float())
    assert torch.equal(found, expected.to(dtype))


def test_few_steps_are_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("overnight.nn.recurrence.look_up", lambda *args: calls.append(args) or look_up(*args))
    model = ByteLM(hidden_size=8, embedding_size=4)
    model(torch.randint(256, (16, 16)))
    assert not calls
    model(torch.randint(256, (17, 16)))
    assert len(calls) == 1
    ByteLM(hidden_size=8, embedding_size=4, path="readable")(torch.randint(256, (17, 16)))
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("ids", "table", "message"),
    [
        (torch.zeros(9, 5), torch.zeros(V, D), "ids are torch.float32"),
        (torch.zeros(9, dtype=torch.long), torch.zeros(V, D), "expected int32 or int64"),
        (torch.zeros(9, 5, dtype=torch.long), torch.zeros(V), "table has shape"),
        (torch.zeros(9, 5, dtype=torch.long), torch.zeros(V, D + 1), "7 wide"),
        (torch.zeros(9, 5, dtype=torch.long), torch.zeros(0, D), "table has no rows"),
        (torch.zeros(9, 5, dtype=torch.long).numpy(), torch.zeros(V, D), "ids are of the type ndarray"),
        (torch.zeros(9, 5, dtype=torch.long), None, "table is of the type NoneType"),
    ],
)
def test_wrong_calls_are_said(ids: Tensor, table: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recurrent(DenseGates(D, H)).look_up(ids, table)


def test_an_id_outside_the_table_is_an_error() -> None:
    with pytest.raises(IndexError):
        Recurrent(DenseGates(D, H)).look_up(torch.full((9, 5), V), torch.zeros(V, D))
