"""How fast this machine multiplies matrices: a measurement of about a second."""

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Rate:
    """What was measured: [rows, inner] times [inner, columns], forward only.

    Args:
        what: which product of the recurrence has this shape.
        dtype: ``float32`` or ``bfloat16``.
        gflops: 10⁹ floating-point operations a second; a multiplication and an addition count as two.
        repeats: products timed.
    """

    what: str
    rows: int
    inner: int
    columns: int
    dtype: str
    gflops: float
    repeats: int


# A GPU needs more work to show what it can do; the shapes are those of a 1024-unit and a 4096-unit model.
_SHAPES = {
    "cpu": (("one step of 128 lanes", 128, 1024, 4096), ("a window's projection", 2048, 1024, 1024)),
    "gpu": (("one step of 512 lanes", 512, 4096, 16384), ("a window's projection", 16384, 4096, 4096)),
}


def measure_rates(device: str, seconds: float = 1.0) -> tuple[Rate, ...]:
    """Two shapes in float32 and bfloat16 on one device, for about ``seconds`` in all.

    Slow devices take longer: each product runs at least twice, once to warm up.
    """
    import torch

    shapes = _SHAPES["cpu" if device == "cpu" else "gpu"]
    budget = seconds / (2 * len(shapes))
    return tuple(
        _measure(what, rows, inner, columns, dtype, device, budget)
        for what, rows, inner, columns in shapes
        for dtype in (torch.float32, torch.bfloat16)
    )


def _measure(what: str, rows: int, inner: int, columns: int, dtype: object, device: str, budget: float) -> Rate:
    import torch

    assert isinstance(dtype, torch.dtype)
    x = torch.randn(rows, inner, device=device).to(dtype)
    weight = torch.randn(columns, inner, device=device).to(dtype)

    def wait() -> None:
        if device != "cpu":
            torch.accelerator.synchronize()

    with torch.inference_mode():
        torch.nn.functional.linear(x, weight)
        wait()
        repeats, burst, elapsed = 0, 1, 0.0
        start = time.perf_counter()
        while elapsed < budget:
            for _ in range(burst):
                torch.nn.functional.linear(x, weight)
            wait()
            repeats += burst
            elapsed = time.perf_counter() - start
            burst = repeats  # doubling: waiting after every product would time the launches of a GPU, not its work
    gflops = 2.0 * rows * inner * columns * repeats / elapsed / 1e9
    return Rate(what, rows, inner, columns, str(dtype).removeprefix("torch."), gflops, repeats)
