"""When a weight is laid out for oneDNN, counted by the calls that do it, and that it changes no product."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

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
