"""The recurrence on a CUDA device, Triton cell and CUDA graphs: `python -m pytest tests/gpu/test_recurrence.py`."""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from parity.cell_cases import SIZES, error, written
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from overnight.nn.fast import graphed
from overnight.nn.fast.cell import EagerCell
from overnight.nn.fast.triton_cell import TritonCell, why_not_triton
from overnight.nn.gates import DenseGates, FactorizedGates, GroupedGates, MultiplicativeGates
from overnight.nn.recurrence import Recurrent
from overnight.nn.stack import RecurrentStack

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]
DEVICE = "cuda"
CALLS = 6
MAPS: dict[str, Callable[..., Any]] = {
    "dense": DenseGates,
    "factorized": partial(FactorizedGates, rank=5),
    "grouped": partial(GroupedGates, groups=7),
    "multiplicative": MultiplicativeGates,
}
every_map = pytest.mark.parametrize("name", MAPS)
Results = list[Tensor]


class Counted(graphed.LoopGraphs):
    """Counts captures and replays."""

    def __init__(self) -> None:
        super().__init__(self.count)
        self.captures = self.replays = 0

    def count(self, loop: graphed.Loop) -> graphed.Loop:
        self.captures += 1
        replay = graphed._capture_on_device(loop)

        def counted() -> None:
            self.replays += 1
            replay()

        return counted


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    counted = Counted()
    monkeypatch.setattr(graphed, "_graphs", counted)
    yield counted
    assert not counted._failed, "a capture failed"


@pytest.fixture(autouse=True)
def exact_products_and_new_memory_full_of_nan() -> Iterator[None]:
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


def without_graphs(monkeypatch: pytest.MonkeyPatch, work: Callable[[], Any]) -> Any:
    with monkeypatch.context() as patch:
        patch.setenv(graphed.SWITCH, "0")
        return work()


def layer_of(name: str, output: int, path: Any, dtype: torch.dtype, hidden: int = 63, **options: Any) -> Recurrent:
    torch.manual_seed(0)
    return Recurrent(MAPS[name](7, hidden, output, forget_bias=1.0), path, **options).to(DEVICE, dtype)


def results(layer: Recurrent, time: int, batch: int, resets: bool) -> Results:
    """Outputs and gradients of one call."""
    draw = torch.Generator().manual_seed(time)
    dtype, gates = next(layer.parameters()).dtype, layer.gates

    def normal(*shape: int, kind: torch.dtype = dtype) -> Tensor:
        return torch.randn(shape, generator=draw).to(DEVICE, kind)

    x, h = normal(time, batch, 7).requires_grad_(), normal(batch, gates.output_size).requires_grad_()
    c = normal(batch, gates.hidden_size, kind=torch.float32).requires_grad_()
    reset = (torch.rand(time, batch, generator=draw) < 0.2).to(DEVICE) if resets else None
    out, last = layer(x, (h, c), reset)
    loss = sum((part * normal(*part.shape, kind=part.dtype)).float().sum() for part in (out, *last))
    return [out.detach(), *(p.detach() for p in last), *torch.autograd.grad(loss, [x, h, c, *layer.parameters()])]


def assert_close(ours: Results, theirs: Results, tolerance: float) -> None:
    for n, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert one.dtype == other.dtype
        assert error(one, other) <= tolerance, n


def test_triton_works_here() -> None:
    assert why_not_triton(torch.device(DEVICE), torch.bfloat16) == ""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("resets", [False, True])
def test_the_cell_writes_what_the_eager_cell_writes(dtype: torch.dtype, resets: bool) -> None:
    for batch, hidden, groups in [*SIZES, (512, 4096, 1), (128, 4096, 4)]:
        case = (batch, hidden, groups, dtype, resets, DEVICE)
        c = torch.zeros(batch, hidden, device=DEVICE)
        ours, theirs = written(TritonCell(c), *case), written(EagerCell(c, dtype), *case)
        for name, tensor in theirs.items():
            most = {torch.float32: 2e-6, torch.bfloat16: 2**-6, torch.float16: 2**-9}[dtype]
            assert error(ours[name], tensor) <= most, f"{case} {name}"


@every_map
@pytest.mark.parametrize("output", [63, 7])
@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("time", "batch"), [(7, 1), (63, 7), (101, 3)])
def test_graphs_eager_and_readable_agree(
    name: str,
    output: int,
    resets: bool,
    dtype: torch.dtype,
    time: int,
    batch: int,
    graphs: Counted,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    readable = results(layer_of(name, output, "readable", dtype), time, batch, resets)
    layer = layer_of(name, output, "fast", dtype)
    eager = without_graphs(monkeypatch, lambda: results(layer, time, batch, resets))
    assert_close(eager, readable, 1e-5 if dtype == torch.float32 else 2**-5)
    for _ in range(CALLS):
        assert_close(results(layer, time, batch, resets), eager, 0.0)
    assert graphs.captures >= 2
    assert graphs.replays > graphs.captures, "memory came back and the graphs were used"


@every_map
def test_float64_takes_the_eager_cell(name: str, graphs: Counted) -> None:
    readable, layer = (layer_of(name, 63, path, torch.float64) for path in ("readable", "fast"))
    x = torch.randn(7, 3, 7, device=DEVICE, dtype=torch.float64)
    for _ in range(CALLS):
        torch.testing.assert_close(layer(x)[0], readable(x)[0], rtol=0, atol=1e-12)


def trained(layers: int = 2, chunk: int | None = None) -> list[float]:
    """Losses of a few steps of a model whose layers are alike, in shapes that now and then vary."""
    torch.manual_seed(0)
    model = RecurrentStack([MultiplicativeGates(64, 64, weight_norm=True) for _ in range(layers)]).to(DEVICE)
    for layer in model.layers:
        layer.chunk = chunk
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    state, losses = None, []
    for step in range(12):
        draw = torch.Generator().manual_seed(step)
        x = torch.randn(13 if step % 5 == 4 else 16, 8, 64, generator=draw).to(DEVICE)
        with torch.autocast(DEVICE, torch.bfloat16):
            out, state = model(x, state)
        with torch.no_grad():
            model(x[:5])  # an evaluation between
        loss = out.float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        state = tuple((h.detach(), c.detach()) for h, c in state)
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("chunk", [None, 5])
def test_training_takes_the_same_steps(chunk: int | None, graphs: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trained(chunk=chunk) == without_graphs(monkeypatch, lambda: trained(chunk=chunk))
    assert graphs.replays > 0


def test_several_forwards_wait_for_their_backwards(graphs: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = layer_of("multiplicative", 63, "fast", torch.float32)
    xs = [torch.randn(9, 3, 7, device=DEVICE) for _ in range(3)]

    def run() -> list[list[Results]]:
        found = []
        for _ in range(CALLS):
            losses = [layer(x)[0].square().sum() for x in xs]
            found.append([list(torch.autograd.grad(loss, layer.parameters())) for loss in reversed(losses)])
        return found

    for ours, theirs in zip(run(), without_graphs(monkeypatch, run), strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            assert_close(mine, other, 0.0)
    assert graphs.replays > 0


def test_a_result_that_is_kept_is_not_written_over(graphs: Counted) -> None:
    layer = layer_of("dense", 63, "fast", torch.float32)
    xs = [torch.randn(9, 3, 7, device=DEVICE) for _ in range(8)]
    with torch.no_grad():
        for x in xs:
            layer(x)
        kept = [layer(x)[0] for x in xs]
        again = [layer(x)[0].clone() for x in xs]
    for one, other in itertools.zip_longest(kept, again):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_on_another_stream_and_inside_a_graph_of_the_callers(graphs: Counted) -> None:
    layer = layer_of("grouped", 63, "fast", torch.float32)
    x = torch.randn(9, 3, 7, device=DEVICE)
    with torch.no_grad():
        expected = layer(x)[0].clone()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(CALLS):
                found = layer(x)[0].clone()
        torch.cuda.current_stream().wait_stream(side)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        whole = torch.cuda.CUDAGraph()
        with torch.cuda.graph(whole):
            inside = layer(x)[0]
        whole.replay()
    torch.testing.assert_close(inside, expected, rtol=0, atol=0)


def test_under_ddp(tmp_path: Path, graphs: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.distributed.init_process_group("nccl", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:

        def run(wrap: Callable[[nn.Module], nn.Module]) -> list[Results]:
            model, found = wrap(layer_of("multiplicative", 63, "fast", torch.float32)), []
            for step in range(CALLS):
                torch.manual_seed(step)
                model(torch.randn(9, 3, 7, device=DEVICE))[0].square().sum().backward()
                found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
                model.zero_grad()
            return found

        alone = without_graphs(monkeypatch, lambda: run(lambda model: model))
        for ours, theirs in zip(run(partial(DistributedDataParallel, device_ids=[0])), alone, strict=True):
            assert_close(ours, theirs, 0.0)
        assert graphs.replays > 0
    finally:
        torch.distributed.destroy_process_group()


def test_the_paper_model_in_chunks_of_64_steps_takes_less_than_12_gb() -> None:
    torch.use_deterministic_algorithms(False)
    layer = Recurrent(MultiplicativeGates(64, 4096, weight_norm=True), chunk=64).to(DEVICE)
    x = torch.randn(256, 512, 64, device=DEVICE)
    for p in layer.parameters():
        p.grad = torch.zeros_like(p)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.autocast(DEVICE, torch.bfloat16):
        out, _ = layer(x)
    out.sum().backward()
    assert torch.cuda.max_memory_allocated() - before < 12e9
