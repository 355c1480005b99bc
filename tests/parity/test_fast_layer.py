"""The layer on its fast path against its readable one: carried state, autocast, compilers, several processes."""

import gc
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from distributed.sharded_work import in_group
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from train.on_ranks import on_ranks

from overnight.errors import UserError
from overnight.nn.fast.sequence import fast_recurrence
from overnight.nn.gates import DenseGates, FactorizedGates, GroupedGates, MultiplicativeGates
from overnight.nn.recurrence import Recurrent
from overnight.nn.stack import RecurrentStack

MAPS: dict[str, Callable[..., Any]] = {
    "dense": DenseGates,
    "multiplicative": MultiplicativeGates,
    "factorized": partial(FactorizedGates, rank=5),
    "grouped": partial(GroupedGates, groups=3),
}
every_map = pytest.mark.parametrize("name", MAPS)
with_and_without_projection = pytest.mark.parametrize("output", [12, 9], ids=["", "projected"])


def build(name: str, output: int, path: Any, **options: Any) -> Recurrent:
    torch.manual_seed(0)
    layer = Recurrent(MAPS[name](6, 12, output), path, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


@every_map
@with_and_without_projection
@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backward_inside", [False, True])
def test_paths_agree_with_state_carried(
    name: str, output: int, autocast: torch.dtype | None, backward_inside: bool
) -> None:
    generator = torch.Generator().manual_seed(1)
    x, reset = torch.randn(2, 13, 3, 6, generator=generator), torch.rand(2, 13, 3, generator=generator) < 0.1
    found = {}
    for path in ("readable", "fast"):
        layer, state, outputs = build(name, output, path), None, []
        cast = torch.autocast("cpu", autocast, enabled=autocast is not None)
        with cast:
            for part in range(2):
                out, state = layer(x[part], state, reset[part])
                outputs.append(out)
            loss = sum(out.float().square().sum() for out in outputs) + state[1].sum()
            if backward_inside:
                loss.backward()
        if not backward_inside:
            loss.backward()
        found[path] = [*outputs, *state, *(parameter.grad for parameter in layer.parameters())]
        assert outputs[0].dtype == state[0].dtype == (autocast or torch.float32)
        assert state[1].dtype == torch.float32
    for ours, theirs in zip(found["fast"], found["readable"], strict=True):
        scale = max(1.0, theirs.abs().max().item())
        torch.testing.assert_close(ours, theirs, rtol=0, atol=(1e-5 if autocast is None else 2**-6) * scale)


@every_map
def test_auto_takes_the_fast_path(name: str) -> None:
    x = torch.randn(5, 2, 6)
    kinds = [type(build(name, 12, path)(x)[0].grad_fn).__name__ for path in ("auto", "fast", "readable")]
    assert kinds == ["_SequenceBackward", "_SequenceBackward", "StackBackward0"]


@every_map
@pytest.mark.parametrize(("lanes", "path", "expected"), [(2, "auto", 0), (2, "fast", 1), (200, "auto", 1)])
def test_auto_without_gradients_is_readable_for_few_units(
    name: str, lanes: int, path: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []
    monkeypatch.setattr(
        "overnight.nn.recurrence.fast_recurrence", lambda *args: calls.append(args) or fast_recurrence(*args)
    )
    layer, x = build(name, 12, path), torch.randn(5, lanes, 6)
    with torch.no_grad():
        found = layer(x)[0]
    assert len(calls) == expected
    torch.testing.assert_close(found, build(name, 12, "readable")(x)[0], rtol=0, atol=1e-6)
    layer(x)
    assert len(calls) == expected + 1


@every_map
@with_and_without_projection
def test_memory_is_freed_without_the_garbage_collector(name: str, output: int) -> None:
    layer = build(name, output, "fast")
    gc.disable()
    try:
        freed = []
        for backward in (False, True):
            out, (h, c) = layer(torch.randn(5, 2, 6))
            freed.append(weakref.ref(out.grad_fn))
            if backward:
                (out.sum() + c.sum()).backward()
            del out, h, c
        assert [node() for node in freed] == [None, None]
    finally:
        gc.enable()


class Tagger(nn.Module):
    """Two recurrent layers within other operations."""

    def __init__(self, name: str, path: Any = "fast") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = RecurrentStack([MAPS[name](6, 12, 9), MAPS[name](9, 12)], path=path)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor, reset: Tensor | None = None) -> Tensor:
        h, state = self.body(torch.tanh(x), None, reset)
        return self.head(h).square().mean() + state[0][1].square().mean()


@every_map
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_compiled_model_is_the_model(name: str, dtype: torch.dtype) -> None:
    """aot_eager: the compiler's capture and its autograd, without its code generator. The loop is not traced."""
    model = Tagger(name).to(dtype)
    x, reset = torch.randn(60, 2, 6, dtype=dtype), torch.rand(60, 2) < 0.1
    model(x, reset).backward()
    expected = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    torch._dynamo.reset()
    traced: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        traced.append(len(graph.graph.nodes))
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    torch.compile(model, backend=backend)(x, reset).backward()
    assert traced
    assert max(traced) < 60, "nodes of a graph: fewer than steps"
    torch.testing.assert_close([parameter.grad for parameter in model.parameters()], expected)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="disable"):
        torch.compile(model, backend="aot_eager", fullgraph=True)(x, reset)
    torch._dynamo.reset()


def batches() -> Tensor:
    return torch.randn(4, 7, 2, 6, generator=torch.Generator().manual_seed(3))


def gradients_on_two_ranks() -> dict[str, list[Tensor | None]]:
    found, x, rank = {}, batches(), dist.get_rank()
    for name in MAPS:
        parallel = DistributedDataParallel(Tagger(name))
        with parallel.no_sync():
            parallel(x[rank]).backward()
        parallel(x[2 + rank]).backward()
        found[name] = [parameter.grad for parameter in parallel.parameters()]
    return found


def test_two_ranks_have_the_gradient_of_one_process(tmp_path: Path) -> None:
    ranks = on_ranks(in_group, tmp_path, 2, tmp_path / "store", gradients_on_two_ranks)
    for name in MAPS:
        model = Tagger(name, "readable")
        (sum(model(part) for part in batches()) / 2).backward()
        expected = [parameter.grad for parameter in model.parameters()]
        for found in ranks:
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


def test_torch_func_takes_the_readable_recurrence() -> None:
    torch.manual_seed(0)
    layer = Recurrent(DenseGates(3, 4))
    x = torch.randn(5, 2, 3)
    parameters = dict(layer.named_parameters())

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(layer, parameters, (x,))[0].square().sum()

    found = torch.func.grad(loss)(parameters)
    layer(x)[0].square().sum().backward()
    for name, parameter in parameters.items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match=r"No fast path serves torch.func"):
        torch.func.grad(loss)(dict((layer := Recurrent(DenseGates(3, 4), "fast")).named_parameters()))
