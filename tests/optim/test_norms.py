"""Norms are right for any size, dtype and layout, and the ratio for zero and not finite ones."""

import math

import pytest
import torch
from torch import Tensor

from overnight.optim import LAMB
from overnight.optim.trust_ratio import dense, sum_of_squares, trust_ratio

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("elements", [2**24, 2**24 + 1023])
def test_many_equal_numbers(elements: int) -> None:
    x = torch.full((elements,), 0.1)
    exact = elements * x[0].double().item() ** 2
    assert sum_of_squares(x).item() == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("elements", [1024, 3072, 2**14, 2**20, 2**24 + 1023])
def test_the_fused_step_has_norms_as_good(elements: int) -> None:
    p = torch.nn.Parameter(torch.full((elements,), 0.1))
    p.grad = torch.ones_like(p)
    LAMB([p], lr=0.5, weight_decay=0.0, eps=0.0, fused=True).step()
    assert 0.1 - p.detach().double().mean().item() == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x,
        lambda x: x.t(),
        lambda x: x[:, ::3],
        lambda x: x[5:, 7:],
        lambda x: x[:, :9].reshape(-1, 3, 3, 3).to(memory_format=torch.channels_last),
        lambda x: x[0, :1].expand(40, 30),
        lambda x: x[3, 4],
    ],
    ids=["contiguous", "transposed", "strided", "offset", "channels_last", "expanded", "scalar"],
)
def test_every_dtype_and_layout(layout: object, dtype: torch.dtype) -> None:
    x: Tensor = layout(torch.randn(102, 1101, generator=torch.Generator().manual_seed(0)).to(dtype))  # type: ignore[operator]
    exact = sum(number**2 for number in x.reshape(-1).tolist())
    found = sum_of_squares(x)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([exact], rel=1e-6)
    assert sorted(dense(x).tolist()) == sorted(x.reshape(-1).tolist())
    if x.dim() and x.shape[0] % 2 == 0:
        halves = [sum_of_squares(half).item() for half in x.chunk(2)]
        assert sum_of_squares(x, 2).tolist() == pytest.approx(halves, rel=1e-6)


def test_nothing_in_a_tensor() -> None:
    assert sum_of_squares(torch.empty(0)).tolist() == [0.0]
    assert sum_of_squares(torch.empty(4, 0), blocks=4).tolist() == [0.0] * 4
    assert sum_of_squares(torch.empty(0, 3)).tolist() == [0.0]


def test_dense_is_a_view_of_what_has_no_gaps() -> None:
    for x in (torch.randn(3, 5), torch.randn(3, 5).t(), torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)):
        assert dense(x).data_ptr() == x.data_ptr()
        assert dense(x).is_contiguous()


def test_ratios() -> None:
    inf, nan = math.inf, math.nan
    w = torch.tensor([6.0, 0.0, 6.0, 0.0, 6.0, nan, 6.0, 1e-3])
    u = torch.tensor([2.0, 2.0, 0.0, 0.0, inf, 2.0, nan, 1e3])
    ratios = trust_ratio(w, u).tolist()
    assert ratios[:5] == [3.0, 1.0, 1.0, 1.0, 0.0]
    assert math.isnan(ratios[5])
    assert math.isnan(ratios[6])
    assert trust_ratio(w, u, (0.01, 2.0))[[0, 1, 7]].tolist() == pytest.approx([2.0, 1.0, 0.01])
