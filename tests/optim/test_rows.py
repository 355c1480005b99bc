"""Optimizers that touch only rows with a gradient: against torch's, over gaps, with decay, and across a resume."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from overnight.doctor.optimizer import CHECKS, Subject, conformance
from overnight.optim.row_gradients import clip_grad_norm_, rows_of, total_norm
from overnight.optim.rows import RowAdagrad, RowAdam, RowSGD

V, D = 11, 3
PAIRS: list[Any] = [
    pytest.param(RowSGD, {"lr": 0.1}, torch.optim.SGD, {"lr": 0.1}, id="SGD"),
    pytest.param(
        RowSGD, {"lr": 0.1, "momentum": 0.9}, torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}, id="momentum"
    ),
    pytest.param(
        RowSGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}, torch.optim.SGD,
        {"lr": 0.1, "momentum": 0.9, "nesterov": True}, id="nesterov",
    ),
    pytest.param(
        RowSGD, {"lr": 0.1, "weight_decay": 0.3}, torch.optim.SGD, {"lr": 0.1, "weight_decay": 0.3}, id="SGD-decay"
    ),
    pytest.param(
        RowAdagrad, {"lr": 0.2, "initial_accumulator_value": 1.0, "lr_decay": 0.1, "eps": 1e-7}, torch.optim.Adagrad,
        {"lr": 0.2, "initial_accumulator_value": 1.0, "lr_decay": 0.1, "eps": 1e-7}, id="Adagrad",
    ),
    pytest.param(
        RowAdam, {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3}, torch.optim.AdamW,
        {"lr": 0.1, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3}, id="AdamW",
    ),
]  # fmt: skip


def parameter(seed: int = 0, *shape: int) -> nn.Parameter:
    draws = torch.Generator().manual_seed(seed)
    return nn.Parameter(torch.randn(*(shape or (V, D)), generator=draws, dtype=torch.float64))


def sparse(ids: list[int], values: Tensor, rows: int = V) -> Tensor:
    return torch.sparse_coo_tensor(torch.tensor([ids]), values, (rows, *values.shape[1:]), check_invariants=True)


def some_rows(seed: int, rows: int = 4) -> tuple[list[int], Tensor]:
    draws = torch.Generator().manual_seed(seed)
    ids = torch.randperm(V, generator=draws)[:rows].sort().values
    return ids.tolist(), torch.randn(rows, D, generator=draws, dtype=torch.float64)


@pytest.mark.parametrize(("kind", "settings", "theirs", "their_settings"), PAIRS)
def test_all_rows_in_every_step_is_torchs_optimizer(
    kind: Any, settings: dict[str, Any], theirs: Any, their_settings: dict[str, Any]
) -> None:
    """A row-sparse and a dense parameter, and a vector, in one optimizer."""
    ours = [parameter(0), parameter(1, 4, 5), parameter(2, V)]
    their = [nn.Parameter(p.detach().clone()) for p in ours]
    mine, other = kind(ours, **settings), theirs(their, **their_settings)
    for step in range(7):
        for index, (p, q) in enumerate(zip(ours, their, strict=True)):
            gradient = parameter(10 * step + index, *p.shape).detach()
            q.grad = gradient
            p.grad = gradient if index == 1 else sparse(list(range(V)), gradient)
        mine.step()
        other.step()
    for p, q in zip(ours, their, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("kind", "settings", "theirs"),
    [
        (RowSGD, {"lr": 0.1}, torch.optim.SGD),
        (RowAdagrad, {"lr": 0.1, "eps": 1e-3}, torch.optim.Adagrad),
        (RowAdam, {"lr": 0.1, "eps": 1e-300, "moments": "frozen"}, torch.optim.SparseAdam),
    ],
)
def test_rows_now_and_then_as_torch(kind: Any, settings: dict[str, Any], theirs: Any) -> None:
    p, q = parameter(), parameter()
    mine = kind([p], **settings)
    other = theirs([q], **{name: value for name, value in settings.items() if name != "moments"})
    for step in range(20):
        ids, values = some_rows(step)
        p.grad, q.grad = sparse(ids, values), sparse(ids, values)
        mine.step()
        other.step()
    torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)


def test_decayed_moments_are_those_of_the_dense_optimizer() -> None:
    p, q = parameter(), parameter()
    mine, other = RowAdam([p], lr=0.1), torch.optim.AdamW([q], lr=0.1, weight_decay=0.0)
    for step in range(20):
        ids, values = some_rows(step)
        p.grad = sparse(ids, values)
        q.grad = p.grad.to_dense()
        mine.step()
        other.step()
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(mine.state[p][name][ids], other.state[q][name][ids], rtol=1e-12, atol=0.0)
    p, q = parameter(), parameter()
    sgd, dense = RowSGD([p], lr=0.1, momentum=0.9), torch.optim.SGD([q], lr=0.1, momentum=0.9)
    for step in range(20):
        ids, values = some_rows(step)
        p.grad = sparse(ids, values)
        q.grad = p.grad.to_dense()
        sgd.step()
        dense.step()
        found, right = (one.state[w]["momentum_buffer"][ids] for one, w in ((sgd, p), (dense, q)))
        torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", [RowSGD, RowAdagrad, RowAdam])
def test_only_rows_with_a_gradient_are_touched(kind: Any) -> None:
    p = parameter()
    optimizer = kind([p], lr=0.1, weight_decay=0.1)
    p.grad = sparse([1, 4, 7], torch.ones(3, D, dtype=torch.float64))
    optimizer.step()
    before = copy.deepcopy((p.detach(), optimizer.state[p]))
    # anything that read another row would spread it
    others = [row for row in range(V) if row not in (4, 9)]
    with torch.no_grad():
        p[others] = torch.nan
    states = [value for value in optimizer.state[p].values() if value.ndim == 2]
    for value in states:
        value[others] = torch.nan
    p.grad = sparse([4, 9], torch.ones(2, D, dtype=torch.float64))
    optimizer.step()
    assert bool(p[[4, 9]].isfinite().all())
    assert bool(p[others].isnan().all())
    assert all(bool(value[[4, 9]].isfinite().all()) and bool(value[others].isnan().all()) for value in states)
    assert not torch.equal(p[[4, 9]], before[0][[4, 9]])


@pytest.mark.parametrize("kind", [RowSGD, RowAdagrad, RowAdam])
def test_outstanding_decay_is_made_up_for_under_a_schedule(kind: Any) -> None:
    """With gradients of zero, a row is what decay in every step would have left, at the rates of the steps."""
    p = parameter()
    start = p.detach().clone()
    optimizer = kind([p], lr=1.0, weight_decay=0.1)
    product = 1.0
    for step in range(12):
        optimizer.param_groups[0]["lr"] = rate = 1.0 / (1 + step)
        ids, values = some_rows(step)
        p.grad = sparse(ids, torch.zeros_like(values))
        optimizer.step()
        product *= 1 - rate * 0.1
        torch.testing.assert_close(p[ids], start[ids] * product, rtol=1e-12, atol=0.0)
    optimizer.settle()
    torch.testing.assert_close(p.detach(), start * product, rtol=1e-12, atol=0.0)
    settled = p.detach().clone()
    optimizer.settle()
    assert torch.equal(p, settled)


def test_one_sum_a_row() -> None:
    p, dense = parameter(), parameter(3, 4, 2)
    optimizer = RowAdagrad([p, dense], lr=0.5, initial_accumulator_value=1.0, per_row=True)
    ids, values = some_rows(0)
    expected = p.detach().clone()
    expected[ids] -= 0.5 * values / ((1 + values.square().mean(1, keepdim=True)).sqrt() + 1e-10)
    p.grad, dense.grad = sparse(ids, values), torch.ones(4, 2, dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=0.0)
    assert optimizer.state[p]["sum"].shape == (V, 1)
    assert optimizer.state[dense]["sum"].shape == (4, 2)
    p.grad = torch.ones(V, D, dtype=torch.float64)  # a dense gradient is one of all rows
    optimizer.step()
    assert optimizer.state[p]["sum"].shape == (V, 1)


@pytest.mark.parametrize("kind", [RowSGD, RowAdagrad, RowAdam])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_resuming_is_bit_exact(kind: Any, dtype: torch.dtype) -> None:
    settings = {"lr": 0.1, "weight_decay": 0.01, **({"momentum": 0.9} if kind is RowSGD else {})}

    def run(p: nn.Parameter, q: nn.Parameter, optimizer: Any, steps: range) -> None:
        for step in steps:
            ids, values = some_rows(step)
            p.grad, q.grad = sparse(ids, values.to(dtype)), values[:2].to(dtype)
            optimizer.step()

    p, q = (nn.Parameter(parameter(seed).detach()[:rows].to(dtype)) for seed, rows in ((0, V), (1, 2)))
    optimizer = kind([p, q], **settings)
    run(p, q, optimizer, range(5))
    saved = copy.deepcopy((p, q, optimizer.state_dict()))
    run(p, q, optimizer, range(5, 12))
    resumed = kind(saved[:2], **settings)
    resumed.load_state_dict(saved[2])
    run(*saved[:2], resumed, range(5, 12))
    assert torch.equal(p, saved[0])
    assert torch.equal(q, saved[1])
    for name, value in optimizer.state[p].items():
        assert value.dtype == resumed.state[saved[0]][name].dtype
        assert torch.equal(value, resumed.state[saved[0]][name])


@pytest.mark.parametrize(("name", "kind"), [("RowAdam", RowAdam), ("RowSGD", RowSGD), ("RowAdagrad", RowAdagrad)])
def test_the_checks_that_are_not_about_the_trust_ratio(name: str, kind: Any) -> None:
    checks = [check for check in CHECKS if check.name in ("gradient", "skipped step", "resume")]
    assert len(checks) == 3
    found = conformance(Subject(name, kind, "lars" if kind is RowSGD else "lamb", {}), checks)
    assert found.broken == (), found.findings


def test_gradients_are_not_written_to() -> None:
    for kind in (RowSGD, RowAdagrad, RowAdam):
        p = parameter()
        ids, values = some_rows(0)
        p.grad = sparse(ids, values.clone())
        kept = p.grad
        optimizer = kind([p], lr=0.1, weight_decay=0.1)
        optimizer.step()
        optimizer.step()
        assert p.grad is kept
        assert torch.equal(kept._values(), values)


def test_a_dense_gradient_after_sparse_ones_is_one_of_all_rows() -> None:
    p, q = parameter(), parameter()
    mine, twin = RowAdam([p], lr=0.1, weight_decay=0.1), RowAdam([q], lr=0.1, weight_decay=0.1)
    ids, values = some_rows(0)
    for w, optimizer in ((p, mine), (q, twin)):
        w.grad = sparse(ids, values)
        optimizer.step()
    full = parameter(5).detach()
    p.grad, q.grad = full, sparse(list(range(V)), full)
    mine.step()
    twin.step()
    assert torch.equal(p, q)


def test_rows_that_come_twice_count_once_summed() -> None:
    values = torch.randn(5, 4)
    gradient = sparse([4, 1, 4, 9, 1], values)
    ids, summed = rows_of(gradient)
    assert ids.tolist() == [1, 4, 9]
    torch.testing.assert_close(summed, gradient.coalesce().values())
    ids, summed = rows_of(sparse([4, 1, 4, 9, 1], values[:, 0]))
    torch.testing.assert_close(summed, gradient.coalesce().values()[:, 0])
    sorted_already = sparse([1, 4], values[:2])
    assert rows_of(sorted_already)[1].data_ptr() == sorted_already._values().data_ptr()


def test_norm_and_clipping_of_sparse_and_dense_together() -> None:
    values, dense = torch.randn(5, D, dtype=torch.float64), torch.randn(2, 2, dtype=torch.float64)
    p, q, without = parameter(), parameter(0, 2, 2), parameter()
    p.grad, q.grad = sparse([4, 1, 4, 9, 1], values.clone()), dense.clone()
    whole = p.grad.to_dense()
    right = torch.cat([whole.flatten(), dense.flatten()]).norm()
    torch.testing.assert_close(total_norm([p.grad, q.grad]), right)
    torch.testing.assert_close(clip_grad_norm_([p, q, without], 0.5), right)
    torch.testing.assert_close(p.grad.to_dense(), whole * 0.5 / right, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(total_norm([p.grad, q.grad]).item(), 0.5, rtol=1e-5, atol=0.0)
    clip_grad_norm_([p, q], 100.0)
    torch.testing.assert_close(total_norm([p.grad, q.grad]).item(), 0.5, rtol=1e-5, atol=0.0)


def test_refusals() -> None:
    p = parameter()
    for build, message in [
        (lambda: RowSGD([p], lr=-1.0), "lr=-1.0"),
        (lambda: RowSGD([p], lr=1.0, momentum=1.0), "momentum=1.0"),
        (lambda: RowSGD([p], lr=1.0, nesterov=1), "nesterov=1"),  # type: ignore[arg-type]
        (lambda: RowAdam([p], betas=(0.9, 1.0)), r"betas\[1\]=1.0"),
        (lambda: RowAdam([p], moments="lazy"), "moments='lazy'"),  # type: ignore[arg-type]
        (lambda: RowAdagrad([p], weight_decay=-0.1), "weight_decay=-0.1"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()  # type: ignore[no-untyped-call]
    p.grad = torch.sparse_coo_tensor([[0], [1]], [1.0], (V, D), dtype=torch.float64, check_invariants=True)
    with pytest.raises(ValueError, match="sparse in 2 dimensions"):
        RowSGD([p], lr=1.0).step()


def test_the_state_of_another_model_is_refused() -> None:
    p = parameter()
    optimizer = RowAdam([p], lr=0.1)
    p.grad = torch.ones_like(p)
    optimizer.step()
    with pytest.raises(ValueError, match=r"shape \[11, 3\], the parameter \[12, 3\]"):
        RowAdam([parameter(0, V + 1, D)], lr=0.1).load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match="has no sum"):
        RowAdagrad([parameter()], lr=0.1).load_state_dict(optimizer.state_dict())
