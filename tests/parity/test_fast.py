"""The fast multiplicative LSTM against the readable recurrence: outputs and all gradients."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from overnight.errors import UserError
from overnight.nn.fast.sequence import fast_recurrence
from overnight.nn.gates import DenseGates, FoldedMultiplicative, MultiplicativeGates
from overnight.nn.recurrence import Recurrent, recurrence

NAMES = ("p", "h0", "c0", "w_mh", "w_m")
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


@dataclass(frozen=True)
class Case:
    """Arguments of one call of a recurrence and the weights of its outputs in the loss."""

    p: Tensor
    h0: Tensor
    c0: Tensor
    w_mh: Tensor
    w_m: Tensor
    reset: Tensor | None
    factors: tuple[Tensor, Tensor, Tensor]


def make(time: int, batch: int, hidden: int, dtype: torch.dtype = torch.float64, resets: bool = True) -> Case:
    generator = torch.Generator().manual_seed(time * 1000 + batch * 100 + hidden)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    wide = torch.promote_types(dtype, torch.float32)
    return Case(
        normal(time, batch, 5 * hidden).to(dtype),
        normal(batch, hidden, scale=0.5).to(dtype),
        normal(batch, hidden, scale=0.5).to(wide),
        normal(hidden, hidden, scale=hidden**-0.5).to(dtype),
        normal(4 * hidden, hidden, scale=hidden**-0.5).to(dtype),
        torch.rand(time, batch, generator=generator) < 0.2 if resets else None,
        (normal(time, batch, hidden).to(dtype), normal(batch, hidden).to(dtype), normal(batch, hidden).to(wide)),
    )


def call(run: Any, case: Case) -> tuple[Tensor, Tensor, Tensor]:
    bias = case.p.new_zeros(case.p.shape[2])
    folded = FoldedMultiplicative(case.p.new_zeros(case.p.shape[2], 1), bias, case.w_mh, case.w_m)
    result: tuple[Tensor, Tensor, Tensor] = run(folded, case.p, case.h0, case.c0, case.reset)
    return result


def outputs_and_gradients(run: Any, case: Case, wanted: tuple[str, ...] = NAMES) -> dict[str, Tensor]:
    leaves = {name: getattr(case, name).detach().clone() for name in NAMES}
    for name in wanted:
        leaves[name].requires_grad_()
    outputs = call(run, replace(case, **leaves))
    loss = sum((out.double() * factor.double()).sum() for out, factor in zip(outputs, case.factors, strict=True))
    loss.backward()
    found = dict(zip(("h", "h_last", "c_last"), outputs, strict=True))
    for name, leaf in leaves.items():
        assert (leaf.grad is not None) == (name in wanted), name
        if leaf.grad is not None:
            found[f"d{name}"] = leaf.grad
    return {name: part.detach() for name, part in found.items()}


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    for name, theirs in expected.items():
        ours = actual[name]
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
        scale = max(1.0, theirs.abs().max().item()) if theirs.numel() else 1.0
        torch.testing.assert_close(
            ours, theirs, rtol=0, atol=tolerance * scale, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("resets", [True, False], ids=["resets", "no resets"])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(
    ("time", "batch", "hidden"),
    [(7, 1, 101), (7, 7, 63), (63, 3, 7), (63, 7, 101), (101, 1, 63), (101, 3, 7), (1, 2, 3)],
)
def test_equals_readable(time: int, batch: int, hidden: int, dtype: torch.dtype, resets: bool) -> None:
    case = make(time, batch, hidden, dtype, resets)
    actual = outputs_and_gradients(fast_recurrence, case)
    assert_same(actual, outputs_and_gradients(recurrence, case), TOLERANCES[dtype])


@pytest.mark.parametrize(("time", "batch", "hidden"), [(7, 3, 63), (63, 7, 101), (101, 1, 7)])
def test_bf16_is_as_close_to_float64_as_the_readable_form(time: int, batch: int, hidden: int) -> None:
    case = make(time, batch, hidden, torch.bfloat16)
    wide = {name: getattr(case, name).double() for name in NAMES}
    exact = outputs_and_gradients(recurrence, replace(case, **wide))
    fast = outputs_and_gradients(fast_recurrence, case)
    readable = outputs_and_gradients(recurrence, case)
    for name, true in exact.items():
        errors = [((form[name].double() - true).norm() / true.norm()).item() for form in (fast, readable)]
        assert errors[0] < 1.5 * errors[1] + 2**-9, f"{name}: fast {errors[0]:.2e}, readable {errors[1]:.2e}"
        assert errors[0] < 0.05, name


@pytest.mark.parametrize("wanted", [("w_m",), ("w_mh",), ("p",), ("h0",), ("c0",), ("p", "w_m"), ("c0", "w_mh")])
def test_only_some_inputs_require_gradients(wanted: tuple[str, ...]) -> None:
    case = make(7, 3, 5)
    actual = outputs_and_gradients(fast_recurrence, case, wanted)
    assert_same(actual, outputs_and_gradients(recurrence, case, wanted), 1e-12)


@pytest.mark.parametrize("used", [0, 1, 2])
def test_only_one_output_is_used(used: int) -> None:
    case = make(7, 3, 5)
    gradients = []
    for run in (fast_recurrence, recurrence):
        leaves = {name: getattr(case, name).clone().requires_grad_() for name in NAMES}
        out = call(run, replace(case, **leaves))[used]
        # a sum's gradient is expanded, not contiguous
        gradients.append(torch.autograd.grad(out.sum(), list(leaves.values())))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_memory_layout_does_not_matter() -> None:
    case = make(7, 4, 5)
    same = call(fast_recurrence, case)
    turned = replace(
        case,
        p=case.p.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        h0=case.h0.t().contiguous().t(),
        c0=case.c0.t().contiguous().t(),
        w_mh=case.w_mh.t().contiguous().t(),
        w_m=torch.cat([case.w_m, case.w_m], 1)[:, :5],
        reset=torch.stack([case.reset, ~case.reset], 2)[..., 0],
        factors=tuple(factor.transpose(0, 1).contiguous().transpose(0, 1) for factor in case.factors),
    )
    assert not turned.p.is_contiguous()
    for ours, theirs in zip(call(fast_recurrence, turned), same, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
    assert_same(outputs_and_gradients(fast_recurrence, turned), outputs_and_gradients(recurrence, case), 1e-12)


def test_expanded_inputs() -> None:
    case = make(7, 4, 5)
    gradients = []
    for run in (fast_recurrence, recurrence):
        p, h, c = (part[:1].clone().requires_grad_() for part in (case.p, case.h0, case.c0))
        expanded = replace(
            case, p=p.expand(7, -1, -1), h0=h.expand(4, -1), c0=c.expand(4, -1), reset=case.reset[:, :1].expand(-1, 4)
        )
        out, h_last, c_last = call(run, expanded)
        loss = (out * case.factors[0]).sum() + (h_last * case.factors[1]).sum() + (c_last * case.factors[2]).sum()
        gradients.append([out, *torch.autograd.grad(loss, [p, h, c])])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("time", "batch"), [(0, 3), (5, 0), (0, 0), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_nothing_to_do(time: int, batch: int, dtype: torch.dtype) -> None:
    case = make(time, batch, 6, dtype)
    wanted = NAMES if time else ("h0", "c0")  # without a step the others have no part in the outputs
    for state in (case.h0, case.h0.float()):
        ours, theirs = (call(run, replace(case, h0=state)) for run in (fast_recurrence, recurrence))
        for mine, other in zip(ours, theirs, strict=True):
            assert (mine.shape, mine.dtype) == (other.shape, other.dtype)
            torch.testing.assert_close(mine, other, rtol=0, atol=2**-7)
    if dtype == torch.float64:
        actual = outputs_and_gradients(fast_recurrence, case, wanted)
        assert_same(actual, outputs_and_gradients(recurrence, case, wanted), 1e-12)


def test_without_gradients() -> None:
    case = make(9, 3, 5)
    expected = call(recurrence, case)
    leaves = replace(case, **{name: getattr(case, name).clone().requires_grad_() for name in NAMES})
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            for ours, theirs in zip(call(fast_recurrence, leaves), expected, strict=True):
                assert not ours.requires_grad
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_inputs_are_left_as_they_are() -> None:
    case = make(9, 3, 5)
    before = {name: getattr(case, name).clone() for name in NAMES}
    leaves = {name: getattr(case, name).requires_grad_() for name in NAMES}
    sum(part.sum() for part in call(fast_recurrence, case)).backward()
    for name, leaf in leaves.items():
        torch.testing.assert_close(leaf.detach(), before[name], rtol=0, atol=0)


def test_backward_twice_over_one_graph() -> None:
    case = make(9, 3, 5)
    leaves = [getattr(case, name).requires_grad_() for name in NAMES]
    loss = sum((out * factor).sum() for out, factor in zip(call(fast_recurrence, case), case.factors, strict=True))
    first = torch.autograd.grad(loss, leaves, retain_graph=True)
    for one, other in zip(first, torch.autograd.grad(loss, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_gradcheck() -> None:
    case = make(5, 2, 3)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        return call(fast_recurrence, replace(case, **dict(zip(NAMES, inputs, strict=True))))

    assert torch.autograd.gradcheck(run, [getattr(case, name).requires_grad_() for name in NAMES])


@pytest.mark.parametrize("power", [1, 2])
def test_second_derivatives_are_refused_clearly(power: int) -> None:
    case = make(5, 2, 3)
    p = case.p.requires_grad_()
    loss = call(fast_recurrence, case)[0].pow(power).sum()
    with pytest.raises(RuntimeError, match="no second derivatives; use path='readable'"):
        torch.autograd.grad(loss, p, create_graph=True)


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
def test_layer_paths_agree_with_state_carried(autocast: torch.dtype | None) -> None:
    torch.manual_seed(0)
    gates = MultiplicativeGates(6, 11)
    with torch.no_grad():
        for parameter in gates.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x, reset = torch.randn(2, 13, 3, 6), torch.rand(2, 13, 3) < 0.1
    found = {}
    for path in ("readable", "fast"):
        layer, state, outputs = Recurrent(gates, path), None, []
        gates.zero_grad()
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            for part in range(2):
                out, state = layer(x[part], state, reset[part])
                outputs.append(out)
        loss = sum(out.float().square().sum() for out in outputs) + state[1].sum()
        loss.backward()
        found[path] = [*outputs, *state, *(p.grad.clone() for p in gates.parameters())]
        assert outputs[0].dtype == (autocast or torch.float32)
        assert state[1].dtype == torch.float32
    for ours, theirs in zip(found["fast"], found["readable"], strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=(1e-5 if autocast is None else 2**-6) * max(1.0, scale))


def test_choice_of_path() -> None:
    layer = Recurrent(MultiplicativeGates(3, 4), "auto")
    assert type(layer(torch.randn(5, 2, 3))[0].grad_fn).__name__ != "StackBackward0"
    with pytest.raises(UserError, match="'quick' is not a recurrence path"):
        Recurrent(DenseGates(3, 4), "quick")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("x", "state", "reset", "problem"),
    [
        ((5, 2, 4), None, None, "4 wide; the gate map takes 3"),
        ((5, 2, 3), ((2, 4), (1, 4)), None, r"State c has shape \(1, 4\)"),
        ((5, 2, 3), None, (5, 3), "reset mask"),
    ],
)
def test_wrong_shapes_are_named(x: Any, state: Any, reset: Any, problem: str) -> None:
    layer: nn.Module = Recurrent(MultiplicativeGates(3, 4))
    with pytest.raises(ValueError, match=problem):
        layer(
            torch.zeros(x),
            state and tuple(torch.zeros(shape) for shape in state),
            reset and torch.zeros(reset, dtype=torch.bool),
        )
