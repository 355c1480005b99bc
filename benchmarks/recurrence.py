"""Speed of the recurrence against the naive loop, nn.LSTM and the matrix products alone, in one process.

    python benchmarks/recurrence.py [--device cuda] [--maps multiplicative] [--sizes 1024/128/64] [--json FILE]

Sizes are units/batch/steps. ``-projected`` maps have h of a quarter of the units (an eighth from 8192 on) and an input
as wide; the others read 64 numbers a step. The multiplicative map reads bytes, as the byte model does: embedded for the
rivals, looked up in a table of projected bytes by the fast path; both give the embedding's gradient. F-LSTM's rank is half of h, G-LSTM has 4 groups.
A contestant's forward runs without a graph; forward and backward give every weight's gradient and the input's. All take
turns, round after round; medians. GFLOP/s count the products only (a backward as two forwards), "floor" is the share of
the speed of the same products with no cell at all, "peak" that of one large product.
"""

import argparse
import json
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import torch
from recurrence_rivals import Case, NaiveLoop, ProductsOnly, TorchLSTM
from torch import Tensor, nn

from overnight.nn.fast.packed import PackedMatrix
from overnight.nn.recurrence import Recurrent
from overnight.train.host import keep_freed_memory

MAPS = ("multiplicative", "dense", "factorized", "grouped", "dense-projected", "factorized-projected",
        "grouped-projected")  # fmt: skip
BYTES, BYTE_WIDTH, GROUPS = 256, 64, 4
SIZES = {
    "cpu": {
        "multiplicative": ["1024/128/64", "512/64/64", "1024/512/64", "256/16/32"],
        "others": ["1024/128/64", "512/64/64"],
    },
    "cuda": {"multiplicative": ["4096/512/256", "1024/128/64"], "others": ["1024/128/64", "8192/128/20"]},
}
BF16 = "bf16"
CONTESTANTS = ("fast bf16", "fast fp32", "readable bf16", "naive fp32", "naive bf16", "nn.LSTM fp32", "nn.LSTM bf16",
               "products bf16", "products fp32")  # fmt: skip
DIRECTIONS = ("forward", "forward_backward")


class OfBytes(nn.Module):
    """An embedding of bytes and the module on it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module, self.embedding = module, nn.Embedding(BYTES, BYTE_WIDTH)

    def forward(self, ids_TB: Tensor) -> Any:
        if isinstance(self.module, Recurrent):
            return self.module.look_up(ids_TB, self.embedding.weight)
        return self.module(self.embedding(ids_TB))


class Recurrence:
    """A module that takes the input of all steps, ready to be timed."""

    def __init__(self, module: nn.Module, x: Tensor, precision: str) -> None:
        module = module if x.is_floating_point() else OfBytes(module)
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


def contestant(name: str, case: Case, x: Tensor) -> Any:
    what, _, precision = name.partition(" ")
    if what == "products":
        return ProductsOnly(case, torch.bfloat16 if precision == BF16 else torch.float32, x.device.type)
    builds: dict[str, Callable[[], nn.Module]] = {
        "fast": lambda: Recurrent(case.gate_map(), "fast"),
        "readable": lambda: Recurrent(case.gate_map(), "readable"),
        "naive": lambda: NaiveLoop(case),
        "nn.LSTM": lambda: TorchLSTM(case),
    }
    return Recurrence(builds[what](), x, precision)


def seconds(work: Callable[[], object], cuda: bool) -> float:
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


def one_turn(entry: Any, cuda: bool) -> tuple[float, float, int]:
    """Seconds forward, seconds forward and backward, and the bytes that these took on a GPU at their highest."""
    before = 0
    if cuda:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    both = seconds(entry.forward_backward, cuda)
    peak = torch.cuda.max_memory_allocated() - before if cuda else 0
    if hasattr(entry, "clear"):
        entry.clear()
    return seconds(entry.forward, cuda), both, peak


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
                    racing[name] = contestant(name, case, x)
                turn = one_turn(racing[name], cuda)
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
    size = 8192 if device == "cuda" else 2048
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    # packed, since the plain float32 product of some CPUs is another library's
    product = PackedMatrix(b, size)
    return 2.0 * size**3 / min(seconds(partial(product, a), device == "cuda") for _ in range(10))


def rows_of(case: Case, turns: dict[str, list[tuple[float, ...]]], peaks: dict[str, float]) -> list[dict[str, Any]]:
    medians = {
        name: [statistics.median(column) for column in zip(*found, strict=True)]
        for name, found in turns.items()
        if found
    }
    rows = []
    for name, median in medians.items():
        what, _, precision = name.partition(" ")
        # nn.LSTM's arithmetic is that of the dense map
        itself = replace(case, gates="dense") if what == "nn.LSTM" else case
        rivals = ["naive fp32", "naive bf16"] + [f"products {precision}"] * (itself == case)
        row: dict[str, Any] = {"name": name, "precision": precision, **asdict(case), "rounds": len(turns[name])}
        for i, direction in enumerate(DIRECTIONS):
            rate = itself.flops(backward=i == 1) / median[i]
            row[direction] = {
                "median_s": median[i], "least_s": min(turn[i] for turn in turns[name]),
                "steps_per_s": case.steps / median[i], "gflops": rate / 1e9, "share_of_peak": rate / peaks[precision],
            }  # fmt: skip
            for rival in rivals:
                if rival in medians:
                    row[direction][f"speed_to_{rival.replace(' ', '_')}"] = medians[rival][i] / median[i]
        row["peak_bytes"] = int(median[2])
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> None:
    print(f"  {'':<16}{'forward':>12}{'fwd + bwd':>12}{'ms':>9}{'naive fp32':>12}{'naive bf16':>12}"
          f"{'GFLOP/s':>10}{'floor':>8}{'peak':>7}{'memory':>10}")  # fmt: skip
    for row in rows:
        both = row["forward_backward"]
        ratios = [both.get(f"speed_to_naive_{precision}") for precision in ("fp32", "bf16")]
        floor = both.get(f"speed_to_products_{row['precision']}")
        said = [f"{ratio:.2f}x" if ratio else "" for ratio in ratios] + [f"{both['gflops']:,.0f}"]
        said += [f"{floor:.0%}" if floor else "", f"{both['share_of_peak']:.0%}"]
        memory = f"{row['peak_bytes'] / 1e9:.2f} GB" if row["peak_bytes"] else ""
        print(f"  {row['name']:<16}{row['forward']['steps_per_s']:>12,.0f}{both['steps_per_s']:>12,.0f}"
              f"{both['median_s'] * 1e3:>9,.1f}{said[0]:>12}{said[1]:>12}{said[2]:>10}{said[3]:>8}{said[4]:>7}"
              f"{memory:>10}", flush=True)  # fmt: skip


def case_of(name: str, size: str) -> Case:
    gates, _, projected = name.partition("-")
    hidden, batch, steps = (int(word) for word in size.split("/"))
    output = hidden // (8 if hidden >= 8192 else 4) if projected else hidden
    return Case(gates, hidden, batch, steps, output if projected else BYTE_WIDTH, output, output // 2, GROUPS)


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    return names[0].partition(":")[2].strip() if names else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--maps", nargs="+", choices=MAPS, default=MAPS)
    parser.add_argument("--sizes", nargs="+", metavar="UNITS/BATCH/STEPS", help="of every map")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each map and size, after the warm-up")
    parser.add_argument("--rounds", type=int, default=3, help="at least so many")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/out/recurrence.json"), metavar="FILE")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    keep_freed_memory()
    warnings.filterwarnings("ignore", message="LSTM with projections")
    cuda = options.device == "cuda"
    where = torch.cuda.get_device_name() if cuda else f"{processor()}, {torch.get_num_threads()} threads"
    peaks = {"fp32": matrix_rate(options.device, torch.float32), BF16: matrix_rate(options.device, torch.bfloat16)}
    print(f"torch {torch.__version__}, {where}; one large product: "
          f"{peaks['fp32'] / 1e9:,.0f} GFLOP/s fp32, {peaks[BF16] / 1e9:,.0f} GFLOP/s bf16")  # fmt: skip
    record: dict[str, Any] = {
        "date": date.today().isoformat(), "torch": torch.__version__, "device": where, "peak_flops": peaks,
        "results": [],
    }  # fmt: skip
    options.json.parent.mkdir(parents=True, exist_ok=True)
    for name in options.maps:
        preset = SIZES[options.device]
        for size in options.sizes or preset.get(name, preset["others"]):
            case = case_of(name, size)
            print(f"\n{name}: {case.hidden} units, h {case.output}, input {case.width}, batch {case.batch}, "
                  f"{case.time} steps; steps (bytes, words) a second:", flush=True)  # fmt: skip
            rows = rows_of(
                case, race(case, options.contestants, options.device, options.seconds, options.rounds), peaks
            )
            show(rows)
            record["results"] += rows
            options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\n{options.json}")


if __name__ == "__main__":
    main()
