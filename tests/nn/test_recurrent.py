"""The layer over every gate map: derivatives, empty sequences, odd inputs, precision, what it refuses."""

from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.nn.gates import DenseGates, FactorizedGates, GroupedGates, Matrix, MultiplicativeGates
from overnight.nn.recurrence import Recurrent

D, H = 4, 6
MAPS: dict[str, Callable[..., Any]] = {
    "dense": DenseGates,
    "factorized": partial(FactorizedGates, rank=3),
    "grouped": partial(GroupedGates, groups=2),
    "multiplicative": MultiplicativeGates,
}
every_map = pytest.mark.parametrize("name", MAPS)
with_and_without_projection = pytest.mark.parametrize("output", [H, 2], ids=["", "projected"])


def build(name: str, output: int, dtype: torch.dtype = torch.float64, **options: Any) -> Recurrent:
    torch.manual_seed(0)
    layer = Recurrent(MAPS[name](D, H, output, **options), "readable").to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return layer


def inputs(time: int, batch: int, output: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    shapes = [(time, batch, D), (batch, output), (batch, H)]
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)


def flat(result: tuple[Tensor, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    return result[0], *result[1]


@every_map
@with_and_without_projection
@pytest.mark.parametrize("weight_norm", [True, False], ids=["weight norm", "plain"])
@pytest.mark.parametrize(("time", "batch"), [(3, 2), (0, 2), (3, 0)])
def test_gradcheck(name: str, output: int, weight_norm: bool, time: int, batch: int) -> None:
    layer = build(name, output, weight_norm=weight_norm)
    names = [key for key, _ in layer.named_parameters()]
    reset = torch.zeros(time, batch, dtype=torch.bool)
    reset[1:2, :1] = True

    def run(x: Tensor, h: Tensor, c: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        parameters = dict(zip(names, weights, strict=True))
        return flat(torch.func.functional_call(layer, parameters, (x, (h, c), reset)))

    leaves = [part.requires_grad_() for part in inputs(time, batch, output)]
    assert torch.autograd.gradcheck(run, [*leaves, *layer.parameters()])


@every_map
@with_and_without_projection
def test_second_derivatives(name: str, output: int) -> None:
    layer = build(name, output)
    leaves = [part.requires_grad_() for part in inputs(2, 1, output)]
    assert torch.autograd.gradgradcheck(lambda x, h, c: flat(layer(x, (h, c))), leaves)


@every_map
@with_and_without_projection
@pytest.mark.parametrize(("time", "batch"), [(0, 3), (5, 0), (0, 0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_empty_sequences(name: str, output: int, time: int, batch: int, dtype: torch.dtype) -> None:
    layer = build(name, output, dtype)
    x, h, c = inputs(time, batch, output, dtype)
    out, (h_last, c_last) = layer(x, (h, c))
    assert (out.shape, out.dtype) == ((time, batch, output), dtype)
    assert (h_last.shape, h_last.dtype) == (h.shape, dtype)
    assert (c_last.shape, c_last.dtype) == (c.shape, torch.promote_types(dtype, torch.float32))
    if time == 0:
        assert torch.equal(h_last, h)
        assert torch.equal(c_last, c.to(c_last.dtype))
    assert [part.shape for part in flat(layer(x))] == [out.shape, h.shape, c.shape]


@every_map
@with_and_without_projection
def test_a_reset_forgets_and_a_carried_state_does_not(name: str, output: int) -> None:
    layer = build(name, output)
    x, h, c = inputs(9, 3, output)
    whole = layer(x, (h, c))
    first, state = layer(x[:4], (h, c))
    second, last = layer(x[4:], state)
    for ours, theirs in zip((torch.cat([first, second]), *last), flat(whole), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    reset = torch.zeros(9, 3, dtype=torch.bool)
    reset[4, 1] = True
    out, _ = layer(x, (h, c), reset)
    fresh, _ = layer(x[4:])
    torch.testing.assert_close(out[4:, 1], fresh[:, 1], rtol=0, atol=1e-14)
    torch.testing.assert_close(out[:, [0, 2]], whole[0][:, [0, 2]], rtol=0, atol=0)
    assert not torch.isclose(out[4:, 1], whole[0][4:, 1]).any(1).all()


@every_map
@with_and_without_projection
def test_strided_and_expanded_inputs(name: str, output: int) -> None:
    layer = build(name, output)
    x, h, c = inputs(5, 4, output)
    reset = torch.rand(5, 4) < 0.3
    turned = (
        x.permute(2, 1, 0).contiguous().permute(2, 1, 0),
        (h.t().contiguous().t(), torch.stack([c, c], 2)[..., 1]),
        reset.t().contiguous().t(),
    )
    assert not turned[0].is_contiguous()
    for ours, theirs in zip(flat(layer(*turned)), flat(layer(x, (h, c), reset)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    results = []
    for copy in (False, True):
        leaves = [part.clone().requires_grad_() for part in (x[:1, :1], h[:1], c[:1])]
        wide = [leaves[0].expand(5, 4, -1), leaves[1].expand(4, -1), leaves[2].expand(4, -1)]
        if copy:
            wide = [part.contiguous() for part in wide]
        found = flat(layer(wide[0], (wide[1], wide[2]), reset[:, :1].expand(5, 4)))
        loss = sum(part.square().sum() for part in found)
        results.append([*found, *torch.autograd.grad(loss, [*leaves, *layer.parameters()])])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)


@every_map
@with_and_without_projection
def test_autocast(name: str, output: int) -> None:
    layer = build(name, output, torch.float32)
    x, h, c = inputs(6, 3, output, torch.float32)
    plain = flat(layer(x, (h, c)))
    assert {part.dtype for part in plain} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16):
        cast = flat(layer(x, (h, c)))
        carried = flat(layer(x, (cast[1], cast[2])))
    assert [part.dtype for part in cast] == [part.dtype for part in carried]
    assert [part.dtype for part in cast] == [torch.bfloat16, torch.bfloat16, torch.float32]
    for ours, theirs in zip(cast, plain, strict=True):
        error = (ours.float() - theirs).norm() / theirs.norm()
        assert 0 < error < 0.03, error
    sum(part.float().square().sum() for part in cast).backward()
    assert {parameter.grad.dtype for parameter in layer.parameters()} == {torch.float32}
    with torch.autocast("cpu", torch.bfloat16, enabled=False):
        for ours, theirs in zip(flat(layer(x, (h, c))), plain, strict=True):
            assert torch.equal(ours, theirs)


@every_map
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(name: str, mode: Any) -> None:
    layer = build(name, 2)
    x, h, c = inputs(5, 3, 2)
    expected = flat(layer(x, (h, c)))
    with mode():
        found = flat(layer(x, (h, c)))
    for ours, theirs in zip(found, expected, strict=True):
        assert not ours.requires_grad
        assert torch.equal(ours, theirs.detach())


@every_map
@with_and_without_projection
def test_only_some_weights_require_gradients(name: str, output: int) -> None:
    layer = build(name, output)
    x, h, c = inputs(5, 3, output)
    everything = dict(layer.named_parameters())

    def gradients() -> dict[str, Tensor | None]:
        layer.zero_grad()
        sum(part.square().sum() for part in flat(layer(x, (h, c)))).backward()
        return {key: None if p.grad is None else p.grad.clone() for key, p in everything.items()}

    expected = gradients()
    for wanted in everything:
        for key, parameter in everything.items():
            parameter.requires_grad_(key == wanted)
        for key, found in gradients().items():
            assert (found is not None) == (key == wanted)
            if found is not None:
                torch.testing.assert_close(found, expected[key], rtol=1e-13, atol=1e-13)


@every_map
@with_and_without_projection
def test_a_state_of_another_floating_dtype_is_converted(name: str, output: int) -> None:
    layer = build(name, output, torch.float32)
    x, h, c = inputs(5, 3, output, torch.float32)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        found = flat(layer(x, (h.to(dtype), c.to(dtype))))
        expected = flat(layer(x, (h.to(dtype).float(), c.to(dtype).float())))
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.dtype == torch.float32
            assert torch.equal(ours, theirs)


@every_map
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"x": torch.zeros(5, D)}, r"shape \(5, 4\); expected floating point \[T, B, 4\]"),
        ({"x": torch.zeros(5, 3, D, dtype=torch.long)}, "input is torch.int64"),
        ({"x": torch.zeros(5, 3, D).numpy()}, "input is of the type ndarray"),
        ({"c": None}, "State c is of the type NoneType"),
        ({"h": torch.zeros(3, 2).numpy()}, "State h is of the type ndarray"),
        ({"x": torch.zeros(5, 3, D + 1)}, "5 wide; the gate map takes 4"),
        ({"h": torch.zeros(2, 2)}, r"State h has shape \(2, 2\); expected \(3, 2\)"),
        ({"h": torch.zeros(3, H)}, r"State h has shape \(3, 6\); expected \(3, 2\)"),
        ({"c": torch.zeros(3, 2)}, r"State c has shape \(3, 2\); expected \(3, 6\)"),
        ({"c": torch.zeros(1, 3, H)}, r"State c has shape \(1, 3, 6\)"),
        ({"c": torch.zeros(3, H, dtype=torch.int32)}, "State c is torch.int32"),
        ({"h": torch.zeros(3, 2, dtype=torch.bool)}, "State h is torch.bool"),
        ({"reset": torch.zeros(5, dtype=torch.bool)}, r"reset mask is torch.bool of shape \(5,\)"),
        ({"reset": torch.zeros(3, 5, dtype=torch.bool)}, r"shape \(3, 5\); expected torch.bool \(5, 3\)"),
        ({"reset": torch.zeros(5, 1, dtype=torch.bool)}, r"shape \(5, 1\); expected"),
        ({"reset": torch.zeros(5, 3)}, "reset mask is torch.float32"),
        ({"reset": [[True] * 3] * 5}, "reset mask is a list"),
        ({"reset": torch.zeros(5, 3, dtype=torch.uint8)}, "reset mask is torch.uint8"),
    ],
)
def test_wrong_input_is_named(name: str, change: dict[str, Tensor], problem: str) -> None:
    given = dict(zip(("x", "h", "c"), inputs(5, 3, 2, torch.float32), strict=True)) | change
    with pytest.raises(ValueError, match=problem):
        build(name, 2, torch.float32)(given["x"], (given["h"], given["c"]), given.get("reset"))


def test_projection_follows_the_maps_choices_and_is_absent_without() -> None:
    assert list(Recurrent(MultiplicativeGates(D, H, H)).state_dict()) == list(
        Recurrent(MultiplicativeGates(D, H)).state_dict()
    )
    plain, normed = (Recurrent(DenseGates(D, H, 2, weight_norm=norm, init="orthogonal")) for norm in (False, True))
    assert plain.state_dict()["projection.weight"].shape == (2, H)
    assert normed.state_dict()["projection.weight_v"].shape == (2, H)
    for layer in (plain, normed):
        torch.testing.assert_close(layer.projection() @ layer.projection().t(), torch.eye(2))


def test_a_fast_path_that_is_not_there_is_refused() -> None:
    class OwnGates(DenseGates):
        def fold(self, dtype: torch.dtype) -> Any:
            return SimpleNamespace(**vars(super().fold(dtype)), project=super().fold(dtype).project)

    with pytest.raises(UserError, match="No fast path serves OwnGates"):
        Recurrent(OwnGates(D, H), "fast")(torch.zeros(5, 3, D))


@pytest.mark.parametrize("parts", [1, 3])
def test_a_state_of_another_number_of_parts_is_named(parts: int) -> None:
    with pytest.raises(ValueError, match=rf"state has {parts} parts; expected the two tensors \(h, c\)"):
        Recurrent(DenseGates(D, H))(torch.zeros(5, 3, D), (torch.zeros(3, H),) * parts)


@pytest.mark.parametrize("state", [torch.zeros(2, 3, H), {"h": 0, "c": 0}], ids=["tensor", "dict"])
def test_a_state_that_is_no_pair_is_named(state: Any) -> None:
    with pytest.raises(ValueError, match=rf"state is of the type {type(state).__name__}; expected the two tensors"):
        Recurrent(DenseGates(D, H))(torch.zeros(5, 2, D), state)


@every_map
@with_and_without_projection
@pytest.mark.parametrize("path", ["readable", "fast"])
@pytest.mark.parametrize("weight_norm", [True, False], ids=["weight norm", "plain"])
@pytest.mark.parametrize("carried", [True, False])
def test_no_step_gives_gradients_of_zeros(name: str, output: int, path: Any, weight_norm: bool, carried: bool) -> None:
    layer = build(name, output, weight_norm=weight_norm)
    layer.path = path
    x, h, c = inputs(5, 3, output)
    x.requires_grad_()
    for used in range(3):
        layer.zero_grad()
        x.grad = None
        flat(layer(x[:0], (h, c) if carried else None))[used].sum().backward()
        for part in (x, *layer.parameters()):
            assert part.grad is not None
            assert not part.grad.any()


@every_map
def test_a_row_of_zeros_under_weight_normalisation(name: str) -> None:
    layer = build(name, H, weight_norm=True)
    x, h, c = inputs(5, 3, H)
    matrices = [module for module in layer.modules() if isinstance(module, Matrix)]
    with torch.no_grad():
        for matrix in matrices:
            matrix.weight_v[..., 1, :] = 0
            matrix.weight_g[..., 1] = 1e3
    out = flat(layer(x, (h, c)))
    sum(part.square().sum() for part in out).backward()
    assert all(part.isfinite().all() for part in (*out, *(parameter.grad for parameter in layer.parameters())))
    for matrix in matrices:
        assert not matrix()[..., 1, :].any()


@every_map
def test_export_takes_the_readable_path(name: str) -> None:
    layer, (x, h, c) = build(name, 2, torch.float32), inputs(3, 2, 2, torch.float32)
    layer.path = "auto"
    program = torch.export.export(layer, (x, (h, c)), strict=False)
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(x, (h, c)), layer(x, (h, c)))
