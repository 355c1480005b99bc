"""The recurrence in chunks of time: the same outputs and gradients, and the memory that is said."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from overnight.errors import UserError
from overnight.models.byte_lm import ByteLM
from overnight.nn.gates import DenseGates, FactorizedGates, GroupedGates, MultiplicativeGates
from overnight.nn.recurrence import Recurrent

D, H, RANK = 6, 12, 5
MAPS: dict[str, Callable[..., Any]] = {
    "dense": DenseGates,
    "factorized": partial(FactorizedGates, rank=RANK),
    "grouped": partial(GroupedGates, groups=3),
    "multiplicative": MultiplicativeGates,
}
every_map = pytest.mark.parametrize("name", MAPS)
with_and_without_projection = pytest.mark.parametrize("output", [H, 3], ids=["", "projected"])


def layer_of(name: str, output: int, path: Any, chunk: int | None, dtype: torch.dtype = torch.float32) -> Recurrent:
    torch.manual_seed(0)
    return Recurrent(MAPS[name](D, H, output, weight_norm=True), path, chunk=chunk).to(dtype)


def results(layer: Recurrent, time: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Outputs and all gradients."""
    torch.manual_seed(1)
    output = layer.gates.output_size
    x, h, c = (torch.randn(shape).to(dtype).requires_grad_() for shape in ((time, 3, D), (3, output), (3, H)))
    out, last = layer(x, (h, c), torch.rand(time, 3) < 0.2)
    loss = sum((part * torch.randn(part.shape).to(dtype)).sum() for part in (out, *last))
    loss.backward()
    return [out.detach(), *(part.detach() for part in last), *(p.grad for p in (x, h, c, *layer.parameters()))]


@every_map
@with_and_without_projection
@pytest.mark.parametrize("path", ["readable", "fast"])
@pytest.mark.parametrize("chunk", [1, 3, 5, 10, 11, 99])
def test_chunks_change_nothing(name: str, output: int, path: str, chunk: int) -> None:
    whole, parts = (results(layer_of(name, output, path, size), 11) for size in (None, chunk))
    for n, (ours, theirs) in enumerate(zip(parts, whole, strict=True)):
        if n < 3:
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
        scale = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 * scale)


@every_map
def test_without_gradients_and_under_autocast(name: str) -> None:
    x = torch.randn(7, 2, D)
    layers = [layer_of(name, H, "auto", chunk) for chunk in (None, 3)]
    with torch.no_grad():
        whole, parts = (layer(x)[0] for layer in layers)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)
    gradients = []
    for layer in layers:
        with torch.autocast("cpu", torch.bfloat16):
            out, _ = layer(x)
        assert out.dtype == torch.bfloat16
        out.float().square().sum().backward()  # the chunks run again outside of autocast
        gradients.append([p.grad for p in layer.parameters()])
    for ours, theirs in zip(*gradients, strict=True):
        assert (ours - theirs).norm() <= 2**-6 * theirs.norm()


def weight_gradients(name: str, path: Any, chunk: int | None, dtype: torch.dtype, table: bool) -> dict[str, Tensor]:
    """Of float32 weights under autocast, by parameter; those of float64 without."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    layer = layer_of(name, 6, path, chunk, wide)
    torch.manual_seed(1)
    ids, embedding = torch.randint(7, (256, 2)), torch.randn(7, D).to(wide).requires_grad_()
    factor = 1 + torch.randn(256, 2, 6)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        out, _ = layer.look_up(ids, embedding) if table else layer(embedding[ids])
    (out * factor).sum().backward()
    return {"table": embedding.grad, **{key: p.grad for key, p in layer.named_parameters()}}


@every_map
@pytest.mark.parametrize(("path", "table"), [("readable", False), ("fast", False), ("fast", True)])
def test_gradients_of_chunks_are_added_in_float32(name: str, path: Any, table: bool) -> None:
    """256 chunks of one step: what bf16 products leave of float64, and not what 256 sums in bf16 would."""
    exact = weight_gradients(name, path, None, torch.float64, table)
    found = weight_gradients(name, path, 1, torch.bfloat16, table)
    for key, true in exact.items():
        off = (found[key].double() - true).norm() / true.norm()
        assert off <= 2**-6, (key, off)


@every_map
def test_torch_func_ignores_chunks(name: str) -> None:
    whole, parts = (layer_of(name, H, "auto", chunk) for chunk in (None, 2))
    x = torch.randn(7, 2, D)

    def gradients(layer: Recurrent) -> dict[str, Tensor]:
        def loss(parameters: dict[str, Tensor]) -> Tensor:
            return torch.func.functional_call(layer, parameters, (x,))[0].square().sum()

        found: dict[str, Tensor] = torch.func.grad(loss)(dict(layer.named_parameters()))
        return found

    torch.testing.assert_close(gradients(parts), gradients(whole), rtol=0, atol=0)


@pytest.mark.parametrize("time", [0, 1, 3])
def test_short_sequences(time: int) -> None:
    out, (h, c) = layer_of("dense", H, "auto", 3)(torch.randn(time, 2, D))
    assert (out.shape, h.shape, c.shape) == ((time, 2, H), (2, H), (2, H))


def test_a_chunk_of_no_steps_is_refused() -> None:
    with pytest.raises(UserError, match="chunk=0 is not a number of steps"):
        Recurrent(DenseGates(D, H), chunk=0)
    assert ByteLM(8, chunk=5).layers[0].chunk == 5


def kept(layer: Recurrent, time: int, batch: int, dtype: torch.dtype) -> int:
    """Bytes of activations that a call keeps for its backward, each storage once, without weights and input."""
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    x = torch.randn(time, batch, D, dtype=dtype)
    own.add(x.untyped_storage().data_ptr())
    storages: dict[int, torch.UntypedStorage] = {}

    def note(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in own and saved.dim() == 3:
            storages[storage.data_ptr()] = storage
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        out = layer(x)[0]
    assert out.requires_grad
    return sum(storage.nbytes() for storage in storages.values())


def formula(name: str, time: int, batch: int, hidden: int, output: int, width: int) -> int:
    """Bytes of the docstring of Recurrent; ``width`` is that of a number of the products' dtype."""
    extra = {"dense": 0, "factorized": RANK, "grouped": 0, "multiplicative": 3 * hidden}[name]
    y = hidden if output != hidden else 0
    steps = time * (4 * hidden + extra + y) + (time + 1) * output
    return batch * (steps * width + (time + 1) * hidden * 4)


@every_map
@with_and_without_projection
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_activations_are_as_many_bytes_as_said(name: str, output: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = Recurrent(MAPS[name](D, H, output), "fast").to(dtype)
    assert kept(layer, 9, 4, dtype) == formula(name, 9, 4, H, output, dtype.itemsize)


def test_the_paper_model_in_bf16() -> None:
    """4096 units, 512 lanes, 256 steps: what the docstring says; below 12 GB, a chunk of 64 far below."""
    bytes_of = partial(formula, "multiplicative", batch=512, hidden=4096, output=4096, width=2)
    whole, part = bytes_of(time=256), bytes_of(time=64)
    assert (round(whole / 1e9, 1), round(part / 1e9, 1)) == (10.8, 2.7)
    assert math.isclose(whole, 20 * 4096 * 512 * 256, rel_tol=0.01)
    h_c_between, h = 4 * 512 * 4096 * (2 + 4), 256 * 512 * 4096 * 2
    gradients = 64 * 512 * 6 * 4096 * 2  # of p and of the multiplicative map's inner product, while a chunk is undone
    assert part + gradients + h_c_between + 3 * h < 12e9, "with h in chunks, h as a whole, and its gradient"


@every_map
@with_and_without_projection
def test_of_a_chunk_before_the_last_no_activation_is_kept(name: str, output: int) -> None:
    torch.manual_seed(0)
    layer = Recurrent(MAPS[name](D, H, output), "fast", chunk=4)
    assert kept(layer, 15, 4, torch.float32) == formula(name, 3, 4, H, output, 4)
