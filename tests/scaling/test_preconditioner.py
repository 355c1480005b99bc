"""The preconditioned norm against its formula: whole and by rows, in chunks, in low precision, with AMSGrad."""

import pytest
import torch
from torch import Tensor, nn

from overnight.scaling import preconditioner
from overnight.scaling.preconditioner import Preconditioner


def stepped(optimizer_class: type, shape: tuple[int, ...], **settings: object) -> tuple[nn.Parameter, Preconditioner]:
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(shape))
    optimizer = optimizer_class([parameter], lr=1e-3, betas=(0.9, 0.95), eps=1e-3, **settings)
    for scale in (1.0, 0.1, 0.1):
        parameter.grad = scale * torch.randn(shape)
        optimizer.step()
    return parameter, Preconditioner(optimizer)


def formula(parameter: Tensor, gradient: Tensor, seen: Preconditioner, name: str = "exp_avg_sq") -> float:
    v = seen.optimizer.state[parameter][name].double() / (1 - 0.95**3)
    root = v.sqrt().clamp(min=float((v.mean() * 0.05).sqrt()))
    return float((gradient.double() / (root + 1e-3)).norm())


@pytest.mark.parametrize("chunk", [7, 64, 2**18])
def test_chunks_do_not_matter(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preconditioner, "_CHUNK_CPU", chunk)
    parameter, seen = stepped(torch.optim.AdamW, (9, 11))
    gradient = torch.randn(9, 11)
    for layout in (gradient, gradient.T.contiguous().T):  # not in memory order
        norm = seen.norm(parameter, layout)
        assert norm is not None
        assert float(norm) == pytest.approx(formula(parameter, gradient, seen), rel=1e-5)


def test_low_precision_gradients_and_amsgrad() -> None:
    parameter, seen = stepped(torch.optim.Adam, (40,), amsgrad=True)
    gradient = torch.randn(40).bfloat16()
    norm = seen.norm(parameter, gradient)
    assert norm is not None
    assert norm.dtype == torch.float32
    assert float(norm) == pytest.approx(formula(parameter, gradient, seen, "max_exp_avg_sq"), rel=1e-5)


def test_some_rows_only() -> None:
    parameter, seen = stepped(torch.optim.Adam, (10, 3))
    rows, values = torch.tensor([2, 7]), torch.randn(2, 3)
    whole = torch.zeros(10, 3).index_copy_(0, rows, values)
    norm = seen.norm(parameter, values, rows)
    assert norm is not None
    assert float(norm) == pytest.approx(formula(parameter, whole, seen), rel=1e-5)


def test_nothing_before_the_first_step_and_new_groups_after_a_load() -> None:
    parameter = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter])
    seen = Preconditioner(optimizer)
    assert seen.norm(parameter, torch.ones(3)) is None
    parameter.grad = torch.ones(3)
    optimizer.step()
    before = seen.norm(parameter, torch.ones(3))
    optimizer.load_state_dict(optimizer.state_dict())
    assert before is not None
    assert torch.equal(before, seen.norm(parameter, torch.ones(3)))  # type: ignore[arg-type]


def test_a_weight_that_never_had_a_gradient_is_not_all_that_counts() -> None:
    parameter = nn.Parameter(torch.ones(100))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.ones(100)
    parameter.grad[0] = 0.0
    optimizer.step()
    norm = Preconditioner(optimizer).norm(parameter, torch.ones(100))
    assert norm is not None
    assert float(norm) == pytest.approx((99 + 1 / (0.001 * 0.99)) ** 0.5, rel=1e-3)
