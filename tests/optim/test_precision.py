"""Low precision, layouts and sizes of the parameters."""

from typing import Any

import pytest
import torch
from optim.trajectories import PATHS, expected, watch
from torch import Tensor, nn

from overnight.optim import LAMB, LARS

KINDS = pytest.mark.parametrize("kind", [LAMB, LARS])
ALL_PATHS = pytest.mark.parametrize("path", PATHS)
LOW = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


def drawn(generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(63, 5, generator=generator).to(dtype)


@KINDS
@ALL_PATHS
@LOW
@pytest.mark.parametrize("masters", [False, True])
def test_low_precision_parameters_are_those_of_float32_rounded(
    masters: bool, dtype: torch.dtype, path: str, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = watch(monkeypatch)
    generator = torch.Generator().manual_seed(0)
    low = nn.Parameter(drawn(generator, dtype))
    full = nn.Parameter(low.detach().float())
    ours = kind([low], lr=0.5, weight_decay=0.01, master_weights=masters, **PATHS[path])
    exact = kind([full], lr=0.5, weight_decay=0.01, foreach=False)
    for _ in range(5):
        low.grad = drawn(generator, dtype)
        full.grad = low.grad.float()
        before = low.detach().float()
        if not masters:  # each step is rounded once
            with torch.no_grad():
                full.copy_(before)
        ours.step()
        exact.step()
        state = ours.state[low]
        assert {x.dtype for x in state.values()} == {torch.float32}
        assert ("master" in state) == masters
        if masters:
            torch.testing.assert_close(state["master"], full.detach(), rtol=1e-6, atol=1e-6)
            assert torch.equal(low, state["master"].to(dtype))
        torch.testing.assert_close(low.float(), full, rtol=torch.finfo(dtype).eps, atol=1e-6)
    fused = path == "fused" and masters and kind is LAMB
    assert ran - {"loop"} == (expected(path) if fused or path != "fused" else set()) - {"loop"}


@KINDS
@ALL_PATHS
def test_masters_keep_the_updates_that_bfloat16_swallows(path: str, kind: Any) -> None:
    ends = {}
    for masters in (False, True):
        p = nn.Parameter(torch.ones(63, 5, dtype=torch.bfloat16))
        optimizer = kind([p], lr=1e-3 if kind is LAMB else 0.1, master_weights=masters, weight_decay=0.0, **PATHS[path])
        for _ in range(40):
            p.grad = torch.ones_like(p)
            optimizer.step()
        ends[masters] = p.float().mean().item()
    assert ends[False] == 1.0
    assert ends[True] < 0.99


def test_masters_are_only_of_what_needs_them() -> None:
    low, full = nn.Parameter(torch.ones(3, dtype=torch.float16)), nn.Parameter(torch.ones(3))
    optimizer = LAMB([low, full], master_weights=True)
    low.grad, full.grad = torch.ones_like(low), torch.ones_like(full)
    optimizer.step()
    assert "master" in optimizer.state[low]
    assert "master" not in optimizer.state[full]


@KINDS
@ALL_PATHS
def test_float64_stays_float64(path: str, kind: Any) -> None:
    p = nn.Parameter(torch.ones(7, 3, dtype=torch.float64))
    p.grad = torch.full_like(p, 1e-50)  # nothing in float32
    optimizer = kind([p], lr=0.1, weight_decay=0.0, **({"eps": 0.0} if kind is LAMB else {}), **PATHS[path])
    optimizer.step()
    assert {x.dtype for name, x in optimizer.state[p].items() if name != "step"} == {torch.float64}
    unit = 1.0 if kind is LAMB else 0.001
    torch.testing.assert_close(1 - p.detach(), torch.full((7, 3), 0.1 * unit, dtype=torch.float64), rtol=1e-11, atol=0)


@KINDS
@ALL_PATHS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    ("weight_layout", "grad_layout"),
    [
        (torch.channels_last, torch.channels_last),
        (torch.channels_last, torch.contiguous_format),
        (torch.contiguous_format, torch.channels_last),
        ("gaps", torch.contiguous_format),
        (torch.contiguous_format, "gaps"),
        ("gaps", "gaps"),
    ],
)
def test_layouts_do_not_matter(
    weight_layout: Any, grad_layout: Any, dtype: torch.dtype, path: str, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def laid_out(x: Tensor, layout: Any) -> Tensor:
        x = x.to(dtype)
        if layout == "gaps":
            wide = torch.zeros(*x.shape[:-1], 2 * x.shape[-1], dtype=dtype)
            wide[..., ::2] = x
            return wide[..., ::2]
        return x.contiguous(memory_format=layout)

    generator = torch.Generator().manual_seed(1)
    start = torch.randn(6, 3, 3, 5, generator=generator)
    odd, plain = nn.Parameter(laid_out(start, weight_layout)), nn.Parameter(start.to(dtype))
    assert odd.stride() == laid_out(start, weight_layout).stride()
    ran = watch(monkeypatch)
    one = kind([odd], lr=0.5, weight_decay=0.01, **PATHS[path])
    other = kind([plain], lr=0.5, weight_decay=0.01, foreach=False)
    for step in range(3):
        g = torch.randn(start.shape, generator=generator)
        odd.grad, plain.grad = laid_out(g, grad_layout), g.to(dtype)
        one.step()
        if step == 0 and path == "fused" and dtype == torch.float32:
            assert ran == ({"fused"} if weight_layout == grad_layout == torch.channels_last else {"loop"})
        other.step()
    torch.testing.assert_close(odd, plain, rtol=1e-6 if dtype == torch.float32 else 1e-2, atol=1e-6)
    assert odd.stride() == laid_out(start, weight_layout).stride()


@KINDS
@pytest.mark.parametrize("path", [path for path in PATHS if path != "fused"])
@pytest.mark.parametrize("options", [{}, {"blocks": 4}, {"maximize": True, "variant": "nvlamb"}, {"variant": "lans"}])
def test_a_thousand_million_elements_step_on_the_meta_device(
    options: dict[str, Any], path: str, kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind is LARS:
        options = {name: value for name, value in options.items() if name != "variant"}
    ran = watch(monkeypatch)
    p = nn.Parameter(torch.empty(1000, 1_000_001, device="meta"))
    q = nn.Parameter(torch.empty(2**31 + 4, device="meta", dtype=torch.bfloat16))
    p.grad, q.grad = torch.empty_like(p), torch.empty_like(q)
    optimizer = kind([p, q], lr=0.1, **options, **PATHS[path])
    optimizer.step()
    optimizer.step()
    assert ran == expected(path)
    for x, dtype in ((p, torch.float32), (q, torch.float32)):
        for name, value in optimizer.state[x].items():
            assert name == "step" or (value.device.type, value.shape, value.dtype) == ("meta", x.shape, dtype)
