"""Gate maps: equal to dense maps, sizes of the published table, who sees whom, how they start, what they refuse."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.gates import DenseGates, FactorizedGates, GateMap, GroupedGates, MultiplicativeGates
from overnight.nn.gates.matrix import Matrix
from overnight.nn.recurrence import Recurrent
from overnight.nn.stack import RecurrentStack

SIZES = (6, 12, 9)  # D, H, N


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def shake(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def block_diagonal(weight_KMI: Tensor) -> Tensor:
    """Weights of groups → the dense [4H, I] in the cell's order: the row of gate q, group j, unit u is (q, j, u)."""
    groups, gates, width = weight_KMI.shape
    units = gates // 4
    dense = weight_KMI.new_zeros(4, groups, units, groups * width)
    for j in range(groups):
        dense[:, j, :, j * width : (j + 1) * width] = weight_KMI[j].view(4, units, width)
    return dense.view(4 * groups * units, groups * width)


def as_dense(gates: GroupedGates | FactorizedGates) -> tuple[Tensor, Tensor]:
    """The dense map's two matrices, differentiable in the map's own."""
    if isinstance(gates, GroupedGates):
        return block_diagonal(gates.input_to_gates()), block_diagonal(gates.hidden_to_gates())
    return gates.rank_to_gates() @ gates.input_to_rank(), gates.rank_to_gates() @ gates.hidden_to_rank()


@pytest.mark.parametrize("weight_norm", [False, True], ids=["plain", "weight norm"])
@pytest.mark.parametrize("output", [None, 9], ids=["", "projected"])
@pytest.mark.parametrize(
    "make",
    [*(partial(GroupedGates, groups=k) for k in (1, 3)), *(partial(FactorizedGates, rank=r) for r in (1, 5, 15))],
    ids=str,
)
def test_equals_dense_map_in_outputs_and_gradients(
    make: Callable[..., Any], output: int | None, weight_norm: bool
) -> None:
    width, hidden, _ = SIZES
    ours = Recurrent(make(width, hidden, output, weight_norm=weight_norm))
    shake(ours)
    dense = Recurrent(DenseGates(width, hidden, output))
    x = torch.randn(7, 4, width, requires_grad=True)
    state = (torch.randn(4, output or hidden), torch.randn(4, hidden))
    reset = torch.rand(7, 4) < 0.2
    input_GD, hidden_GN = as_dense(ours.gates)
    weights = {
        "gates.input_to_gates.weight": input_GD,
        "gates.hidden_to_gates.weight": hidden_GN,
        "gates.bias": ours.gates.bias,
    }
    if ours.projection is not None:
        weights["projection.weight"] = ours.projection()
    results = []
    for out, last in (ours(x, state, reset), torch.func.functional_call(dense, weights, (x, state, reset))):
        loss = (out * torch.linspace(0, 1, out.numel()).view_as(out)).sum() + (last[1] ** 2).sum()
        results.append([out, *last, *torch.autograd.grad(loss, [x, *ours.parameters()], retain_graph=True)])
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("output", [None, 9], ids=["", "projected"])
def test_full_rank_from_an_svd_equals_the_dense_map(output: int | None) -> None:
    width, hidden, _ = SIZES
    torch.manual_seed(1)
    dense = DenseGates(width, hidden, output)
    outer, values, inner = torch.linalg.svd(
        torch.cat([dense.input_to_gates(), dense.hidden_to_gates()], 1).detach(), full_matrices=False
    )
    gates = FactorizedGates(width, hidden, output, rank=len(values))
    gates.rank_to_gates.set_(outer * values)
    gates.input_to_rank.set_(inner[:, :width])
    gates.hidden_to_rank.set_(inner[:, width:])
    theirs, ours = Recurrent(dense), Recurrent(gates)
    if theirs.projection is not None:
        ours.projection.set_(theirs.projection())
    x = torch.randn(9, 3, width)
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (DenseGates, 151_060_480),
        (partial(FactorizedGates, rank=512), 52_494_336),
        (partial(GroupedGates, groups=2), 83_951_616),
        (partial(GroupedGates, groups=4), 50_397_184),
        (partial(GroupedGates, groups=8), 33_619_968),
        (partial(GroupedGates, groups=16), 25_231_360),
    ],
    ids=["BIGLSTM", "F-512", "G-2", "G-4", "G-8", "G-16"],
)
def test_published_sizes(make: Callable[..., GateMap], parameters: int) -> None:
    with torch.device("meta"):
        stack = RecurrentStack([make(1024, 8192, 1024) for _ in range(2)])
    assert count(stack) == parameters


@pytest.mark.parametrize("output", [None, 9], ids=["", "projected"])
@pytest.mark.parametrize(
    ("make", "formula"),
    [
        (DenseGates, lambda d, h, n: (d + n) * 4 * h + 4 * h),
        (partial(FactorizedGates, rank=5), lambda d, h, n: (d + n) * 5 + 4 * h * 5 + 4 * h),
        (partial(GroupedGates, groups=3), lambda d, h, n: (d + n) * 4 * h // 3 + 4 * h),
        (partial(MultiplicativeGates, weight_norm=False), lambda d, h, n: (d + h) * 4 * h + (d + n) * h + 4 * h),
    ],
)
def test_sizes_of_the_docstrings(make: Callable[..., Any], formula: Callable[..., int], output: int | None) -> None:
    width, hidden, _ = SIZES
    layer = Recurrent(make(width, hidden, output))
    assert count(layer.gates) == formula(width, hidden, output or hidden)
    assert count(layer) - count(layer.gates) == (hidden * output if output else 0)


@pytest.mark.parametrize("group", [0, 1, 2])
def test_a_group_sees_its_own_slices_and_the_projection_mixes_them(group: int) -> None:
    width, hidden, output = SIZES
    gates = GroupedGates(width, hidden, output, groups=3)
    layer = Recurrent(gates)
    shake(layer)
    folded = gates.fold(torch.float64)
    x, h = torch.randn(2, 4, width), torch.randn(4, output)
    other_x, other_h = x.clone(), h.clone()
    other_x[0, :, 2 * group : 2 * group + 2] += 1
    other_h[:, 3 * group : 3 * group + 3] += 1
    z = folded.preactivation(folded.project(x)[0], h)
    for one, two in ((other_x, h), (x, other_h)):
        moved = (folded.preactivation(folded.project(one)[0], two) != z).view(4, 4, 3, 4).any(0)  # B, gate, K, unit
        assert moved[:, group].all()
        assert moved.sum() == 4 * 4, "gates of another group moved"
    out, other = layer(x)[0], layer(other_x)[0]
    assert (out[0] != other[0]).all()
    unmixed = Recurrent(GroupedGates(width, hidden, groups=3))
    apart = (unmixed(x)[0] != unmixed(other_x)[0]).view(2, 4, 3, 4).any(1).any(2)
    assert apart.any(0).tolist() == [index == group for index in range(3)]


@pytest.mark.parametrize("weight_norm", [False, True], ids=["plain", "weight norm"])
def test_spectral_start_is_the_best_approximation_of_a_dense_map(weight_norm: bool) -> None:
    gates = FactorizedGates(40, 60, 30, rank=20, factor_init="svd", weight_norm=weight_norm)
    outer, inner = gates.rank_to_gates(), torch.cat([gates.input_to_rank(), gates.hidden_to_rank()], 1)
    # equal factors: UᵀU and VVᵀ are the same diagonal matrix, the leading singular values
    torch.testing.assert_close(outer.t() @ outer, inner @ inner.t(), rtol=0, atol=1e-10)
    values = torch.diagonal(inner @ inner.t())
    torch.testing.assert_close(inner @ inner.t(), torch.diag(values), rtol=0, atol=1e-10)
    assert all(big >= small > 0 for big, small in pairwise(values.tolist()))
    torch.manual_seed(5)
    full = FactorizedGates(40, 60, 30, rank=70, factor_init="svd")
    product = full.rank_to_gates() @ torch.cat([full.input_to_rank(), full.hidden_to_rank()], 1)
    assert product.abs().max() <= 1 / math.sqrt(60) + 1e-12, "of full rank it is the uniform matrix itself"
    torch.testing.assert_close(product.std().item(), 1 / math.sqrt(3 * 60), rtol=0.02, atol=0)


def test_independent_factors_start_at_about_a_dense_maps_scale() -> None:
    gates = FactorizedGates(100, 200, 100, rank=50)
    ratio = (gates.rank_to_gates() @ gates.input_to_rank()).std() * math.sqrt(3 * 200)
    torch.testing.assert_close(ratio.item(), 1 / math.sqrt(3), rtol=0.03, atol=0)


@pytest.mark.parametrize("init", ["uniform", "orthogonal"])
def test_a_group_starts_as_a_small_lstm(init: str) -> None:
    gates = GroupedGates(16, 16, groups=2, init=init)
    for block in torch.cat([gates.input_to_gates(), gates.hidden_to_gates()]).view(-1, 8, 8):
        if init == "orthogonal":
            torch.testing.assert_close(block @ block.t(), torch.eye(8), rtol=0, atol=1e-12)
        else:
            assert 0.8 / math.sqrt(8) < block.abs().max() <= 1 / math.sqrt(8)


@pytest.mark.parametrize(
    "make",
    [DenseGates, MultiplicativeGates, partial(FactorizedGates, rank=2), partial(GroupedGates, groups=3)],
)
def test_forget_bias(make: Callable[..., Any]) -> None:
    assert make(6, 9, forget_bias=1.5).bias.view(4, 9).unique(dim=1).flatten().tolist() == [0.0, 1.5, 0.0, 0.0]
    assert not make(6, 9).bias.any()


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: GroupedGates(8, 12, groups=5), "groups=5 does not divide input_size=8 and hidden_size=12 and output"),
        (lambda: GroupedGates(8, 12, groups=3), "groups=3 does not divide input_size=8"),
        (lambda: GroupedGates(8, 12, groups=8), "groups=8 does not divide hidden_size=12 and output_size=12"),
        (lambda: GroupedGates(8, 12, 6, groups=4), "groups=4 does not divide output_size=6"),
        (lambda: GroupedGates(8, 12, groups=0), "cannot have groups=0"),
        (lambda: DenseGates(8, 12, forget_bias=float("nan")), "cannot have forget_bias=nan"),
        (lambda: FactorizedGates(8, 12, 6, rank=15), "rank=15 does not fit .* rank must be from 1 to 14;"),
        (lambda: FactorizedGates(8, 1, rank=5), "rank must be from 1 to 4;"),
        (lambda: FactorizedGates(8, 12, rank=0), "rank=0 does not fit"),
        (lambda: FactorizedGates(8, 12, rank=3, factor_init="qr"), "'qr' is not a known factor_init"),
        (lambda: FactorizedGates(8, 12, rank=3, init="svd"), "'svd' is not a known initialisation"),
        (lambda: DenseGates(8, 12, 0), "output_size=0"),
        (lambda: DenseGates(0, 12), "input_size=0"),
        (lambda: MultiplicativeGates(8, -1), "hidden_size=-1"),
    ],
)
def test_wrong_sizes_are_named(make: Callable[[], object], problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        make()


@pytest.mark.parametrize("groups", [None, 2])
def test_a_row_of_zeros_under_weight_norm(groups: int | None) -> None:
    matrix = Matrix(3, 4, 4, True, "uniform", groups)
    weight = torch.randn(matrix.weight_v.shape)
    weight[..., 1, :] = 0.0
    matrix.set_(weight)
    torch.testing.assert_close(matrix(), weight)
    matrix().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in matrix.parameters())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GroupedGates(4, 8, groups=2.0), "groups=2.0"),
        (lambda: FactorizedGates(4, 8, rank=2.0), "rank=2.0"),
        (lambda: DenseGates(4, 8.0), "hidden_size=8.0"),
        (lambda: Recurrent(DenseGates(4, 8), chunk=2.5), "chunk=2.5"),
        (lambda: RecurrentStack(DenseGates(4, 8)), "not a list of gate maps"),
    ],
)
def test_a_size_that_is_no_whole_number(make: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make()
