"""Contestants take turns over one recurrence, round after round, in one process."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from overnight.doctor.recurrence.products import ProductsOnly
from overnight.doctor.recurrence.rivals import Case, NaiveLoop, TorchLSTM
from overnight.nn.fast.packed import PackedMatrix
from overnight.nn.recurrence import Recurrent

BYTES = 256
SQUARE = {"cuda": 8192, "cpu": 2048}  # rows of the one large product
BF16 = "bf16"
CONTESTANTS = (
    "fast bf16",
    "fast fp32",
    "readable bf16",
    "naive fp32",
    "naive bf16",
    "nn.LSTM fp32",
    "nn.LSTM bf16",
    "products bf16",
    "products fp32",
)


class _OfBytes(nn.Module):
    """An embedding of bytes and the module on it."""

    def __init__(self, module: nn.Module, width: int) -> None:
        super().__init__()
        self.module, self.embedding = module, nn.Embedding(BYTES, width)

    def forward(self, ids_TB: Tensor) -> Any:
        if isinstance(self.module, Recurrent):
            return self.module.look_up(ids_TB, self.embedding.weight)
        return self.module(self.embedding(ids_TB))


class _Recurrence:
    """A module that takes the input of all steps, ready to be timed."""

    def __init__(self, module: nn.Module, x: Tensor, width: int, precision: str) -> None:
        module = module if x.is_floating_point() else _OfBytes(module, width)
        self.module, self.x, self.bf16 = module.to(x.device), x, precision == BF16
        self.gradient: Tensor | None = None

    def _run(self) -> Tensor:
        with torch.autocast(self.x.device.type, torch.bfloat16, enabled=self.bf16):
            out: Tensor | tuple[Tensor, Any] = self.module(self.x)
        return out[0] if isinstance(out, tuple) else out

    @torch.no_grad()
    def forward(self) -> None:
        self._run()

    def forward_backward(self) -> None:
        h = self._run()
        if self.gradient is None:
            self.gradient = torch.randn_like(h)
        h.backward(self.gradient)

    def clear(self) -> None:
        self.module.zero_grad(set_to_none=True)
        self.x.grad = None


def _contestant(name: str, case: Case, x: Tensor) -> Any:
    what, _, precision = name.partition(" ")
    if what == "products":
        return ProductsOnly(case, torch.bfloat16 if precision == BF16 else torch.float32, x.device.type)
    builds: dict[str, Callable[[], nn.Module]] = {
        "fast": lambda: Recurrent(case.gate_map(), "fast"),
        "readable": lambda: Recurrent(case.gate_map(), "readable"),
        "naive": lambda: NaiveLoop(case),
        "nn.LSTM": lambda: TorchLSTM(case),
    }
    return _Recurrence(builds[what](), x, case.width, precision)


def _seconds(work: Callable[[], object], cuda: bool) -> float:
    if not cuda:
        before = time.perf_counter()
        work()
        return time.perf_counter() - before
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def _one_turn(entry: Any, cuda: bool) -> tuple[float, float, int]:
    """Seconds forward, seconds forward and backward, and the bytes that these took on a GPU at their highest."""
    before = 0
    if cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    both = _seconds(entry.forward_backward, cuda)
    peak = torch.cuda.max_memory_allocated() - before if cuda else 0
    if hasattr(entry, "clear"):
        entry.clear()
    return _seconds(entry.forward, cuda), both, peak


def race(case: Case, names: list[str], device: str, budget: float, least: int) -> dict[str, list[tuple[float, ...]]]:
    """Turns of every contestant, in rounds, after a round to warm up; those that run out of memory leave."""
    cuda = device == "cuda"
    if case.gates == "multiplicative" and not case.projected:
        x = torch.randint(BYTES, (case.time, case.batch), device=device)
    else:
        x = torch.randn(case.time, case.batch, case.width, device=device, requires_grad=True)
    racing: dict[str, Any] = {}
    turns: dict[str, list[tuple[float, ...]]] = {name: [] for name in names}
    round_, started = 0, 0.0
    while round_ <= least or time.perf_counter() - started < budget:
        for name in names if round_ == 0 else list(racing):
            try:
                if round_ == 0:
                    torch.manual_seed(0)
                    racing[name] = _contestant(name, case, x)
                turn = _one_turn(racing[name], cuda)
            except torch.OutOfMemoryError:
                racing.pop(name, None)
                torch.cuda.empty_cache()
                continue
            if round_:
                turns[name].append(turn)
        if round_ == 0:
            started = time.perf_counter()
        round_ += 1
    return turns


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of one large square product, the fastest of ten."""
    size = SQUARE[device]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    # packed, since the plain float32 product of some CPUs is another library's
    product = PackedMatrix(b, size)
    return 2.0 * size**3 / min(_seconds(partial(product, a), device == "cuda") for _ in range(10))


def matrix_rates(device: str) -> dict[str, float]:
    """FLOP/s of one large product, by precision."""
    return {"fp32": matrix_rate(device, torch.float32), BF16: matrix_rate(device, torch.bfloat16)}
