"""Training speed of the byte language model, against the plain loop of the reference code's design, in one process.

    python benchmarks/training.py [--seconds 6] [--out FILE.json]

The peer is the design of the code behind "Large Scale Language Modeling" (Puri et al. 2018): one Python step a byte,
a linear map each for the input, the multiplicative input, the multiplicative state and the hidden gates, a pointwise
cell, weight normalisation once a forward, float32, autograd over all of it. A step is forward, backward, gradient
clipping and Adam. Medians; ratios are to the first row of each size.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from overnight.models.byte_lm import ByteLM
from overnight.train.host import keep_freed_memory

SIZES = [(1024, 128, 64), (1024, 32, 64), (512, 64, 128), (768, 32, 64)]


class PlainLoop(nn.Module):
    """Embedding 64 → multiplicative LSTM, one Python step a byte → 256 logits."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(256, 64)
        shapes = {
            "w_ih": (4 * hidden, 64),
            "w_hh": (4 * hidden, hidden),
            "w_mih": (hidden, 64),
            "w_mhh": (hidden, hidden),
        }
        for name, shape in shapes.items():
            weight = torch.empty(shape).uniform_(-(hidden**-0.5), hidden**-0.5)
            self.register_parameter(f"{name}_v", nn.Parameter(weight))
            self.register_parameter(f"{name}_g", nn.Parameter(weight.norm(dim=1, keepdim=True)))
        self.bias = nn.Parameter(torch.zeros(4 * hidden))
        self.output = nn.Linear(hidden, 256)

    def weight(self, name: str) -> Tensor:
        v, g = getattr(self, f"{name}_v"), getattr(self, f"{name}_g")
        return g * v / v.norm(dim=1, keepdim=True)

    def forward(self, ids: Tensor) -> Tensor:
        w_ih, w_hh, w_mih, w_mhh = (self.weight(name) for name in ("w_ih", "w_hh", "w_mih", "w_mhh"))
        x = self.embedding(ids)
        h = c = x.new_zeros(ids.shape[1], w_mhh.shape[0])
        outputs = []
        for x_t in x.unbind(0):
            m = F.linear(x_t, w_mih) * F.linear(h, w_mhh)
            i, f, g, o = (F.linear(x_t, w_ih, self.bias) + F.linear(m, w_hh)).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            outputs.append(h)
        return self.output(torch.stack(outputs))


class TorchLSTM(nn.Module):
    """nn.LSTM of the same width: four fifths of the arithmetic, another cell."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding, self.lstm, self.output = nn.Embedding(256, 64), nn.LSTM(64, hidden), nn.Linear(hidden, 256)

    def forward(self, ids: Tensor) -> Tensor:
        return self.output(self.lstm(self.embedding(ids))[0])


class Ours(nn.Module):
    def __init__(self, hidden: int, path: str) -> None:
        super().__init__()
        self.model = ByteLM(hidden, path=path)

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(ids)[0]


def milliseconds(model: nn.Module, ids: Tensor, bf16: bool, seconds: float) -> list[float]:
    """Times of whole steps, after two to warm up."""
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4, fused=True)

    def step() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logits = model(ids[:-1])
        F.cross_entropy(logits.float().flatten(0, 1), ids[1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    step()
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 3 or time.perf_counter() - started < seconds:
        before = time.perf_counter()
        step()
        times.append((time.perf_counter() - before) * 1e3)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out/training.json"))
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    rows: list[tuple[str, Callable[[int], nn.Module], bool]] = [
        ("plain loop, fp32", PlainLoop, False),
        ("plain loop, bf16 autocast", PlainLoop, True),
        ("nn.LSTM, fp32", TorchLSTM, False),
        ("nn.LSTM, bf16 autocast", TorchLSTM, True),
        ("overnight readable, bf16", lambda h: Ours(h, "readable"), True),
        ("overnight fast, fp32", lambda h: Ours(h, "fast"), False),
        ("overnight fast, bf16", lambda h: Ours(h, "fast"), True),
    ]
    results = []
    for hidden, batch, length in SIZES:
        print(f"\n{hidden} units, batch {batch}, {length} bytes")
        ids = torch.randint(0, 256, (length + 1, batch))
        base = None
        for name, build, bf16 in rows:
            torch.manual_seed(0)
            times = milliseconds(build(hidden), ids, bf16, options.seconds)
            median = statistics.median(times)
            base = base or median
            rate = batch * length / median * 1e3
            print(f"  {name:<28} {median:8.1f} ms  {rate:9,.0f} bytes/s  {base / median:5.2f}x")
            results.append(
                {
                    "hidden_size": hidden, "batch": batch, "length": length, "name": name, "median_ms": median,
                    "min_ms": min(times), "steps": len(times), "bytes_per_s": rate, "ratio": base / median,
                }
            )  # fmt: skip
    options.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "date": date.today().isoformat(), "torch": torch.__version__, "threads": torch.get_num_threads(),
        "cpu": platform.processor() or platform.machine(), "capability": torch.backends.cpu.get_cpu_capability(),
        "results": results,
    }  # fmt: skip
    options.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{options.out}")


if __name__ == "__main__":
    main()
