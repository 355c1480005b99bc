"""When a weight is laid out for oneDNN, counted by the calls that do it, and that it changes no product."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from overnight.nn.fast import packed
from overnight.nn.fast.packed import PackedMatrix, can_pack
from overnight.nn.gates import DenseGates, MultiplicativeGates
from overnight.nn.recurrence import Recurrent

HAVE = {dtype: can_pack(torch.ones(1, 1, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16)}


class Reorders(TorchDispatchMode):
    """Counts the weights that are packed."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ == "_reorder_linear_weight"
        return func(*args, **(kwargs or {}))


def reorders(run: Any) -> int:
    with Reorders() as mode:
        run()
    return mode.count


@pytest.mark.parametrize(
    ("gates", "units", "lanes", "steps", "dtype", "forward", "backward"),
    [
        # where packing lost: float32
        (MultiplicativeGates, 128, 1, 64, torch.float32, 0, 0),
        (DenseGates, 64, 32, 32, torch.float32, 0, 0),
        (MultiplicativeGates, 512, 1, 8, torch.float32, 0, 0),
        (DenseGates, 256, 8, 1, torch.float32, 0, 0),
        (DenseGates, 64, 32, 32, torch.bfloat16, 0, 0),
        (DenseGates, 512, 8, 2, torch.bfloat16, 0, 0),
        # where it won
        (DenseGates, 256, 32, 16, torch.float32, 1, 1),
        (MultiplicativeGates, 256, 32, 16, torch.float32, 2, 2),
        (DenseGates, 256, 8, 16, torch.bfloat16, 1, 1),
        (MultiplicativeGates, 256, 1, 64, torch.bfloat16, 2, 2),
    ],
)
def test_only_where_it_pays(
    gates: Any, units: int, lanes: int, steps: int, dtype: torch.dtype, forward: int, backward: int
) -> None:
    if not HAVE[dtype]:
        forward = backward = 0
    layer, x = Recurrent(gates(4, units), "fast").to(dtype), torch.randn(steps, lanes, 4).to(dtype)
    loss: list[Any] = []
    assert reorders(lambda: loss.append(layer(x)[0].sum())) == forward
    assert reorders(loss[0].backward) == backward


@pytest.mark.parametrize("dtype", HAVE, ids=str)
def test_for_an_unknown_number_of_products_it_is_packed(dtype: torch.dtype) -> None:
    weight = torch.randn(4, 3).to(dtype)
    assert reorders(lambda: PackedMatrix(weight, 1)) == HAVE[dtype]
    assert reorders(lambda: PackedMatrix(weight, 0)) == 0


@pytest.mark.parametrize("dtype", HAVE, ids=str)
@pytest.mark.parametrize("rows", [1, 7, 32])
def test_packed_or_not_it_is_the_same_product(dtype: torch.dtype, rows: int) -> None:
    weight, x, p = torch.randn(65, 33).to(dtype), torch.randn(rows, 33).to(dtype), torch.randn(rows, 65).to(dtype)
    for given in (weight, torch.randn(33, 65).to(dtype).t()):
        forms = [PackedMatrix(given, rows), PackedMatrix(given, rows, steps=1)]
        tolerance = 1e-5 if dtype == torch.float32 else 0.1
        torch.testing.assert_close(forms[0](x), forms[1](x), rtol=0, atol=tolerance)
        torch.testing.assert_close(forms[0].add(p, x), forms[1].add(p, x), rtol=0, atol=tolerance)


def test_onednn_switched_off_is_not_used() -> None:
    weight = torch.randn(4, 3)
    with torch.backends.mkldnn.flags(enabled=False):
        assert not can_pack(weight)
        assert reorders(lambda: PackedMatrix(weight, 1)) == 0
    assert can_pack(weight) == HAVE[torch.float32]


@pytest.fixture
def untried() -> Iterator[None]:
    packed._tried.cache_clear()
    yield
    packed._tried.cache_clear()


def raises(*args: Any) -> Any:
    raise RuntimeError("expected at most 5 arguments\nof a schema")


@pytest.mark.skipif(not HAVE[torch.float32], reason="this torch was built without oneDNN, or it is switched off")
@pytest.mark.parametrize(
    ("changed", "reason"),
    [(raises, "expected at most 5 arguments"), (lambda weight, rows: 2 * weight, "a trial gave")],
    ids=["raises", "is wrong"],
)
def test_changed_operations_are_said_once_and_not_used(
    untried: None, changed: Any, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", changed)
    weight, x = torch.randn(4, 3), torch.randn(2, 3)
    for _ in range(3):
        torch.testing.assert_close(PackedMatrix(weight, 2)(x), x @ weight.t())
    assert len(caplog.records) == 1
    assert f"oneDNN's own products are not used in torch.float32: {reason}" in caplog.text
